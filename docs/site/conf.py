"""The site of the documentation: Sphinx reads the pages as a reader of the repository sees them.

`make docs` builds it. The source folder holds the pages of docs/ and, under names of their own, those that lie beside
it. The site asks no other host for anything: fonts are the reader's own, and the search index is a file of the site.
"""

import re
from typing import Any

project = "sdft_ray"
copyright = "the authors of sdft_ray, Apache-2.0"
extensions = ["myst_parser"]
root_doc = "index"
smartquotes = False  # "" is a value in many of these pages
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # rows of JSON Lines in a block of JSON

html_theme = "furo"
html_title = "sdft_ray"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_css_files = ["site.css"]
html_static_path = ["static"]
pygments_style, pygments_dark_style = "friendly", "monokai"

# In the order in which a reader needs the pages; tests/test_site.py holds that each has its place.
NAVIGATION = {
    "Start": {
        "quickstart": "Quick start",
        "data": "Own data",
        "demonstrations": "Demonstrations",
        "knobs": "Which knob when",
        "runs": "A run and its folder",
        "evaluation": "Evaluation",
        "adapters": "Adapters",
        "models": "Models",
    },
    "Where it runs": {
        "one-gpu": "One GPU",
        "clusters": "Clusters",
        "images": "Images",
        "kubernetes": "Kubernetes",
        "slurm": "Slurm",
        "ssh": "Bare machines",
        "gpu": "On GPUs",
        "gpu-measured": "Measured on GPUs",
        "scaling": "Scaling",
        "security": "Security",
    },
    "While it runs": {
        "watching": "Watching a run",
        "monitoring": "Monitoring",
        "troubleshooting": "Troubleshooting",
        "metrics": "Metrics",
        "reliability": "What a run survives",
    },
    "How it works": {
        "architecture": "Architecture",
        "method": "The method",
        "settings": "Settings",
        "contributing": "Contributing",
        "changelog": "Changelog",
    },
    "What was measured": {
        "experiments": "Experiments",
        "claims": "The paper's claims",
        "demo": "The demo",
        "benchmarks": "Benchmarks",
        "comparison": "Beside others",
    },
}
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", adapt)


def adapt(app: Any, page: str, source: list[str]) -> None:
    """Has links count from the site's root, and gives the first page the navigation."""
    text, end = "", 0
    for block in CODE.finditer(source[0]):
        text += linked(source[0][end : block.start()]) + block[0]
        end = block.end()
    source[0] = text + linked(source[0][end:]) + (navigation() if page == root_doc else "")


def linked(text: str) -> str:
    """The text with `docs/NAME.md` as a link, and links from the repository's root as links from the site's."""
    text = re.sub(r"(?<!\[)`docs/([\w-]+)\.md`", r"[\1.md](\1.md)", text)
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    for name, page in BESIDE.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({page}", text)
    return text


def navigation() -> str:
    """A hidden table of contents for every part."""
    trees = []
    for part, pages in NAVIGATION.items():
        entries = [f"{title} <{page}>" for page, title in pages.items()]
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {part}", "", *entries, "```"]))
    return "\n\n" + "\n\n".join(trees) + "\n"
