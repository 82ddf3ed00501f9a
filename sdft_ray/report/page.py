"""The page: one HTML file with its style, its script and its pictures in it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sdft_ray.report.legend import CHART_STYLE, KEY_HEIGHT, KEY_WIDTH, arm_entries, arm_key, part_entries
from sdft_ray.report.palette import DARK, DARK_ARMS, LIGHT, LIGHT_ARMS, style
from sdft_ray.report.quantities import set_name
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tokens import visible

FOLDER = Path(__file__).parent
MAX_METHODS = 5  # named in the title


def page_environment(folder: Path) -> Environment:
    """What renders the templates of a folder as pages: all that is put in is escaped, and nothing may be missing."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(study: Study, sections: Sequence[Section]) -> str:
    """The page as text; everything a run has written is escaped in it."""
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    environment = page_environment(FOLDER)
    environment.filters["visible"] = visible
    return environment.get_template("page.html.jinja").render(
        title=_title(study),
        about=_about(study),
        sections=sections,
        legend=arm_entries(study.arms),
        arm_key=arm_key,
        part_entries=part_entries,
        key_size=(KEY_WIDTH, KEY_HEIGHT),
        light=style(LIGHT, LIGHT_ARMS),
        dark=style(DARK, DARK_ARMS),
        chart_style=CHART_STYLE,
        page_style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        # Only this very script may run: text of a run that got past the escaping would still do nothing.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _title(study: Study) -> str:
    methods = list(dict.fromkeys(arm.method for arm in study.arms))
    return ", ".join(methods) if len(methods) <= MAX_METHODS else _count(len(methods), "method")


def _about(study: Study) -> list[tuple[str, str]]:
    """What all runs share, or that they do not."""
    facts = [("Arms", str(len(study.arms))), ("Runs", str(len(study.runs)))]
    for name, key in (("Model", "model.path"), ("Data", "data.source"), ("Cluster", "cluster.name")):
        values = dict.fromkeys(str(run.settings.get(key) or "") for run in study.runs)
        shown = ", ".join(value for value in values if value)
        if shown:
            facts.append((name, shown))
    num_unfinished = sum(not run.is_finished for run in study.runs)
    if num_unfinished:
        facts.append(("Not finished", _count(num_unfinished, "run")))
    if study.tasks.new:
        facts.append(("New task", ", ".join(map(set_name, study.tasks.new))))
    return facts


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
