"""`python -m tests.benchmarks [NAME ...]` measures all or the named ones, then writes the results and the page.

The results are written after every measurement, so one that fails leaves those before it.
"""

import importlib
import sys
import time
from importlib.util import find_spec

from tests.benchmarks.plots import draw_growth
from tests.benchmarks.render import MEASUREMENTS, PAGE, render
from tests.benchmarks.results import merge, origin, read_results, write_results


def main(names: list[str]) -> None:
    """Measures in the order of the page."""
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        sys.exit(f"there is no measurement {unknown[0]}: choose from {', '.join(MEASUREMENTS)}")
    made_by = origin()  # now: the page that is written below makes the checkout differ from its commit
    for name in MEASUREMENTS:
        if names and name not in names:
            continue
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        figures = importlib.import_module(f"tests.benchmarks.{name}").measure()
        results = merge(read_results(), name, figures, made_by)
        write_results(results)
        PAGE.write_text(render(results))
        if name == "growth" and find_spec("matplotlib"):
            draw_growth(figures["growth_raw"]["tables"][""], PAGE.parent)
        headlines = {key: value for key, value in figures.items() if not key.endswith("_raw")}
        print(f"{name} took {time.monotonic() - started:.0f} s: {headlines}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
