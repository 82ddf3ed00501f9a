"""Waits until the nodes of a job have joined its Ray: `python -m sdft_ray.targets.nodes 4`.

A program of its own: a job's script calls it before the driver, which refuses a cluster that is too small at once.
"""

import logging
import os
import sys
import time

import ray
from ray.exceptions import AuthenticationError

TIMEOUT_S = 600.0  # images and shared file systems are slow


def main(arguments: list[str]) -> int:
    """Returns 0 once the nodes are there, 1 when they have not come in time."""
    (wanted,) = map(int, arguments)
    logging.getLogger("ray").setLevel(logging.ERROR)
    address, deadline, found, why = os.environ["RAY_ADDRESS"], time.monotonic() + TIMEOUT_S, 0, ""
    while time.monotonic() < deadline:
        try:
            if not ray.is_initialized():
                ray.init(address, log_to_driver=False, logging_level="ERROR")
            found = sum(node["Alive"] for node in ray.nodes())
        except (ConnectionError, AuthenticationError) as error:
            why = f" ({error})"
        if found >= wanted:
            ray.shutdown()
            return 0
        time.sleep(1)
    print(f"error: {found} of {wanted} nodes have joined Ray at {address} in {TIMEOUT_S:.0f} s{why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
