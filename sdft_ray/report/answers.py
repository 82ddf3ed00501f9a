"""The greedy answers of a run's first and last evaluation, question by question."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sdft_ray.report.quantities import accuracy_key
from sdft_ray.report.runs import Run, broken, json_lines
from sdft_ray.tracking.jsonl import ANSWERS_FILE


class Answer(NamedTuple):
    """What became of one question."""

    gold: str  # JSON of the right answer: where ids are made of line numbers, one id may be another question elsewhere
    right: bool | None  # None where it could not be scored
    question: str = ""  # as a person reads it; "" in a folder of an older version
    completion: str = ""  # what the model wrote


Answers = Mapping[str, Answer]  # by example id


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAnswers:
    """The answers to one evaluation set; empty where there was no such evaluation."""

    before: dict[str, Answer] = field(default_factory=dict)
    after: dict[str, Answer] = field(default_factory=dict)


def read_answers(run: Run, sets: Sequence[str]) -> dict[str, SetAnswers]:
    """The answers by set, of the evaluations whose accuracies stand in metrics.jsonl at step 0 and at the last step.

    An evaluation that was cut short has no accuracy, and so its answers do not count. Of a question that was answered
    twice after the same step, the later answer does.

    Raises:
        DataError: a line of answers.jsonl is broken.
    """
    found = {name: SetAnswers() for name in sets}
    kept: dict[tuple[str, int], dict[str, Answer]] = {}
    for name in sets:
        steps = run.values(accuracy_key(name))
        if 0 in steps:
            kept[name, 0] = found[name].before
        if last := max(steps, default=0):
            kept[name, last] = found[name].after
    for path, number, record in json_lines(run.folder / ANSWERS_FILE):
        example_id, answer = _answer(path, number, record)
        answers = kept.get((record["set"], record["step"]))
        if answers is not None:
            answers[example_id] = answer
    return found


def _answer(path: Path, number: int, record: Mapping[str, Any]) -> tuple[str, Answer]:
    for key in ("set", "example_id"):
        if not isinstance(record.get(key), str):
            raise broken(path, number, f"{key} is {record.get(key)!r}, not a string")
    right = record.get("right", "absent")
    if right is not None and not isinstance(right, bool):
        raise broken(path, number, f"right is {right!r}, not true, false or null")
    texts = (str(record.get(key) or "") for key in ("question", "completion"))
    return record["example_id"], Answer(json.dumps(record.get("answer"), sort_keys=True), right, *texts)
