"""Stacks as text, from records."""

import io

from rich.console import Console

from sdft_ray.watch.stacks import Stacks, Thread
from sdft_ray.watch.stacks_page import stacks_table, stacks_text

LOOP = Thread(name="MainThread", state="idle", frames=("Worker.main_loop (ray/_private/worker.py:1069)",))
STEP = Thread(
    name="AsyncIO Thread",
    state="active, holds the GIL",
    frames=("all_reduce (torch/distributed.py:7)", "LearnerRank.step (sdft_ray/learner/rank.py:88)"),
)
LEARNER = Stacks(
    role="learner",
    rank=3,
    host="node-1",
    process_id=41,
    title="ray::billing/learner-3.step",
    state="running",
    threads=(LOOP, STEP),
)
DRIVER = Stacks(
    role="driver", rank=-1, host="node-0", process_id=7, title="python", state="sleeping", problem="refused"
)


def test_every_thread_of_every_process_is_written_with_worker_node_and_pid() -> None:
    lines = stacks_text("billing", "2026-11-28 18:00:00", [DRIVER, LEARNER]).splitlines()
    assert lines[0] == "2 processes of billing on 2 nodes, at 2026-11-28 18:00:00"
    at = lines.index("== learner worker 3 on node-1, pid 41 (running): ray::billing/learner-3.step")
    assert lines[at + 1 : at + 6] == [
        "MainThread (idle)",
        "    Worker.main_loop (ray/_private/worker.py:1069)",
        "AsyncIO Thread (active, holds the GIL)",
        "    all_reduce (torch/distributed.py:7)",
        "    LearnerRank.step (sdft_ray/learner/rank.py:88)",
    ]
    assert lines[lines.index("== driver on node-0, pid 7 (sleeping): python") + 1] == "not read: refused"


def test_the_table_names_the_thread_that_computes_and_where_in_this_package_it_came_from() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(stacks_table([DRIVER, LEARNER]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "active, holds the GIL: all_reduce (torch/distributed.py:7)" in text
    assert "from LearnerRank.step (sdft_ray/learner/rank.py:88)" in text
    assert "main_loop" not in text and "not read: refused" in text
