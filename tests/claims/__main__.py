"""`python -m tests.claims` runs the arms that have not finished, then writes docs/claims.md and docs/claims.json.

`python -m tests.claims page` writes them from the runs there are.
"""

import sys

from tests.claims.claims import CLAIMS, examine
from tests.claims.measured import read_measured
from tests.claims.page import write_page
from tests.claims.running import run_all


def main(arguments: list[str]) -> None:
    """Runs, then writes."""
    if arguments not in ([], ["page"]):
        sys.exit(f"there is no {' '.join(arguments)}: give nothing, or page")
    if not arguments:
        run_all()
    measured = read_measured()
    write_page([finding for claim in CLAIMS if (finding := examine(claim, measured))], measured)


if __name__ == "__main__":
    main(sys.argv[1:])
