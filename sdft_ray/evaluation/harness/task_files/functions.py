"""What the task files here need besides templates: from the columns of the files to lm_eval's prompts."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template

from sdft_ray.evaluation.harness.programs import passes

Row = Mapping[str, Any]


@functools.cache
def official(path: str) -> dict[str, Any]:
    """The settings of a task that lm_eval brings: what is long in them is read, not repeated."""
    settings: dict[str, Any] = load_yaml(Path(lm_eval.tasks.__file__).parent / path, resolve_func=False)
    return settings


def hellaswag_text(row: Row) -> str:
    """The beginning of the story; the sentence that is to be ended begins with a capital letter, as lm_eval has it.

    The file's column ends as the data set's does: "... sitting on a roof. he". Only that last sentence can begin small.
    """
    text: str = row["query"]
    return re.sub(r"(?<=[.!?\"'] )([a-z][^.!?]*)$", lambda found: found[1].capitalize(), text)


def mmlu_text(row: Row) -> str:
    """Question, four choices and "Answer:"."""
    text: str = apply_template(official("mmlu/default/_default_template_yaml")["doc_to_text"], row)
    return text


def truthfulqa_text(row: Row) -> str:
    """The question behind the six that come before every question."""
    template = official("truthfulqa/truthfulqa_mc1.yaml")["doc_to_text"]
    text: str = apply_template(template, {"question": row["Question"]})
    return text


def truthfulqa_choices(row: Row) -> list[str]:
    """The best answer, then all wrong ones, each a sentence with its full stop, as in the data set on the hub."""
    answers = [row["Best Answer"], *row["Incorrect Answers"].split(";")]
    stripped = [answer.strip() for answer in answers]
    return [answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer]


def humaneval_results(row: Row, results: list[str]) -> dict[str, float]:
    """Whether the program passes the tests; asked of lm_eval only where harness.allow_code_execution is set."""
    program = f"{row['prompt']}{results[0]}\n{row['test']}\ncheck({row['entry_point']})"
    return {"pass@1": float(passes(program))}
