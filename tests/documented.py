"""The commands that the documentation shows, as a reader would type them."""

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`((?:\.venv/bin/)?python [^`]+|make [^`]+|sdft [^`]+)`")


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's bash blocks and code spans."""
    text = page.read_text()
    spans = [" ".join(span.split()) for span in SPAN.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return commands_of("\n".join([*BLOCK.findall(text), *spans]))


def commands_of(lines: str) -> list[list[str]]:
    """The words of every command in some lines of bash."""
    joined = lines.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def overrides_of(words: list[str]) -> list[str] | None:
    """What a command gives the launcher; None where it starts something else."""
    if words[0].startswith("+"):  # settings to add to the command above
        return ["+cluster=local", *words]
    if words[0] == "sdft":
        given = words[1:]
    elif words[1:3] == ["-m", "sdft_ray.launch"]:
        given = words[3:]
    else:
        return None
    if ">" in given:
        given = given[: given.index(">")]
    return [word for word in given if word != "..."]


def write_named_files(overrides: list[str], folder: Path, num_rows: int = 16) -> None:
    """Every JSON Lines file of this folder that overrides name, with rows that any method and scorer can use."""
    for name in re.findall(r"(?<![\w/.-])[\w.-][\w/.-]*\.jsonl", " ".join(overrides)):
        rows = [
            {
                "prompt": f"Which port has service {row}?",
                "demonstration": f"It listens on port {row}.",
                "answer": "A",
                "text": f"Service {row} listens on port {row}.",
                "context": {"feedback": "Name the port."},
            }
            for row in range(num_rows)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
