"""A preview as one HTML page with its style in it, in the colours of mode=report."""

from pathlib import Path

from sdft_ray.errors import ConfigError
from sdft_ray.preview.rows import Preview
from sdft_ray.report.page import page_environment
from sdft_ray.report.palette import DARK, DARK_ARMS, LIGHT, LIGHT_ARMS, style

FOLDER = Path(__file__).parent
REPORT_STYLE = FOLDER.parent / "report" / "page.css"


def write_page(preview: Preview, path: Path) -> None:
    """Writes the page.

    Raises:
        ConfigError: it cannot be written.
    """
    page = render_page(preview)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigError("show.out", path, problem, "give a file in a folder that can be written") from error


def render_page(preview: Preview) -> str:
    """The page as text; everything of the data is escaped in it, and no script runs."""
    return (
        page_environment(FOLDER)
        .get_template("page.html.jinja")
        .render(
            preview=preview,
            light=style(LIGHT, LIGHT_ARMS),
            dark=style(DARK, DARK_ARMS),
            page_style=REPORT_STYLE.read_text(encoding="utf-8") + (FOLDER / "preview.css").read_text(encoding="utf-8"),
        )
    )
