"""What other programs read: a tidy CSV of every metric, the final table, and each chart as a file."""

import csv
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdft_ray.config import Figures
from sdft_ray.errors import ConfigError
from sdft_ray.report.arms import Arm
from sdft_ray.report.legend import standalone
from sdft_ray.report.paired_section import PairedRow
from sdft_ray.report.results import ResultRow
from sdft_ray.report.sections import Figure

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIDY_COLUMNS = ("run", "arm", "seed", "step", "stage", "key", "value")
SCALE = 3  # pixels of a PNG for each of the drawing


def write_tidy(path: Path, arms: Sequence[Arm]) -> None:
    """Writes one row for every value of every run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TIDY_COLUMNS)
        for arm in arms:
            for run in arm.runs:
                for line in run.lines:
                    for key, value in line.metrics.items():
                        writer.writerow((run.name, arm.label, run.seed, line.step, line.stage, key, value))


def write_results(path: Path, rows: Sequence[ResultRow]) -> None:
    """Writes what every arm came to, one row for every measured capability; a bound that does not exist is empty."""
    _write(path, ResultRow._fields, rows)


def write_paired(path: Path, rows: Sequence[PairedRow]) -> None:
    """Writes one row a paired comparison; a bound or p-value that does not exist is empty."""
    _write(path, PairedRow._fields, rows)


def _write(path: Path, columns: Sequence[str], rows: Sequence[ResultRow | PairedRow]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(["" if value is None or value != value else value for value in row])


def write_figures(folder: Path, figures: Sequence[Figure], arms: Sequence[Arm], kind: Figures) -> None:
    """Writes each chart as NAME.svg or NAME.png with its title and legend, in the colours of a light page.

    Raises:
        ConfigError: PNG was asked for and there is no browser to draw it, or it failed.
    """
    browser = find_browser() if kind is Figures.PNG else None
    if kind is Figures.PNG and browser is None:
        problem = f"needs a Chromium or Chrome to draw, and none of {', '.join(BROWSERS)} is on the PATH"
        raise ConfigError("report.figures", "PNG", problem, "install one, or set report.figures=SVG")
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        drawn, width, height = standalone(figure, arms)
        if browser is None:
            (folder / f"{figure.name}.svg").write_text(drawn, encoding="utf-8")
        else:
            draw_png(browser, drawn, folder / f"{figure.name}.png", math.ceil(width), math.ceil(height))


def find_browser() -> str | None:
    """The program that draws PNG; None where there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def draw_png(browser: str, svg: str, path: Path, width: int, height: int) -> None:
    """Draws an SVG at `SCALE` times its size.

    Raises:
        ConfigError: the browser left no picture.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "figure.html"
        source.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{svg}', encoding="utf-8")
        command = [*browser_command(browser, Path(scratch)), f"--force-device-scale-factor={SCALE}"]
        command += [f"--window-size={width},{height}", f"--screenshot={path.absolute()}", source.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not path.exists():
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        problem = f"{browser} drew no {path.name}: {lines[-1]}"
        raise ConfigError("report.figures", "PNG", problem, "mend it, or set report.figures=SVG")


def browser_command(browser: str, profile: Path) -> list[str]:
    """A browser without a window, with nothing of the user's own."""
    command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile / 'profile'}"]
    # Its sandbox refuses root, whom containers run as; what it opens is this package's own page.
    return [*command, "--no-sandbox"] if os.geteuid() == 0 else command
