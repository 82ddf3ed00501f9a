"""What a chaos run came to, from what it has written."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.schedule import BEREFT, END, SIGTERM, Leg, num_faults


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trained(run_dir: Path, batch_size: int, num_examples: int) -> dict[str, Any]:
    """Whether each example of each epoch was trained exactly once, up to the last step.

    samples.jsonl has all samples of every step that counts. An epoch is `num_examples` of them.
    """
    steps = [line["step"] for line in lines(run_dir / "metrics.jsonl") if "learner/loss" in line]
    samples = lines(run_dir / "samples.jsonl")
    last = max(steps, default=0)
    counts = Counter((sample["epoch"], sample["example_id"]) for sample in samples)
    ids = {example_id for _, example_id in counts}
    num_whole = last * batch_size // num_examples  # epochs
    missing = [(epoch, name) for epoch in range(num_whole) for name in ids if not counts[epoch, name]]
    return {
        "num_steps": last,
        "steps_in_order": steps == list(range(1, last + 1)),
        "examples_trained": len(samples),
        "examples_lost": len(missing) + max(0, last * batch_size - len(samples)),
        "examples_trained_twice": sum(count - 1 for count in counts.values() if count > 1),
    }


def figures(legs: Sequence[Leg], events: Sequence[dict[str, Any]], codes: Sequence[int]) -> dict[str, Any]:
    """Faults and times.

    Args:
        legs: the schedule.
        events: what has become of the strikes.
        codes: with which the drivers have ended, in order.
    """
    survived = [event for event in events if event["state"] == "survived"]
    recovered = [event["recovered_s"] for event in survived if event["recovered_s"] is not None]
    hung = [event["found_s"] for event in survived if event["strike"].startswith("stop") and event["found_s"]]
    ended = sum(leg.end != END for leg, _ in zip(legs, codes, strict=False))
    resumed = sum(leg.end != END for leg in legs[: len(codes) - 1]) if codes else 0
    return {
        "faults_planned": num_faults(legs),
        "faults_injected": _num_struck([event for event in events if event["state"] == "due"]) + ended,
        "faults_survived": _num_struck(survived) + resumed,
        "stopped_cleanly": sum(code == 143 for leg, code in zip(legs, codes, strict=False) if leg.end == SIGTERM),
        "recovery_median_s": round(statistics.median(recovered), 1) if recovered else None,
        "recovery_worst_s": round(max(recovered), 1) if recovered else None,
        "hang_found_worst_s": round(max(hung), 1) if hung else None,
    }


def _num_struck(events: Sequence[dict[str, Any]]) -> int:
    """Processes that were struck; a bereft strike is two."""
    return len(events) + sum(BEREFT in event["strike"] for event in events)
