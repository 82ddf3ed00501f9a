"""The answers of a single run, question by question: what the model wrote before training, and what it writes after.

Runs that are compared have statistics over questions instead (`paired`): their texts would not fit on a page.
"""

import json

from sdft_ray.report.answers import Answer, SetAnswers, read_answers
from sdft_ray.report.quantities import evaluation_sets
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tables import EMPTY, Cell, Table, table, text_cell

MAX_QUESTIONS = 200  # of a set, on the page
MAX_LETTERS = 400  # of a text
COLUMNS = ("question", "right answer", "before training", "after training", "right")
MARKS = {True: "yes", False: "no", None: "unscored"}


def questions(study: Study) -> Section:
    """One table a set, folded but for the first."""
    sets = evaluation_sets(study.keys)
    tables: list[Table] = []
    if len(study.runs) == 1:
        answers = read_answers(study.runs[0], sets)
        tables = [_table_of(name, answers[name]) for name in sets if answers[name].before or answers[name].after]
    return Section(
        name="questions",
        title="Answers before and after training",
        lead="The greedy answers to the same questions. A click on a heading sorts; answers.jsonl has them all.",
        tables=tuple(tables[:1]),
        folded=tuple(tables[1:]),
    )


def _table_of(name: str, answers: SetAnswers) -> Table:
    ids = list(dict.fromkeys([*answers.before, *answers.after]))
    rows = [_row(one, answers.before.get(one), answers.after.get(one)) for one in ids[:MAX_QUESTIONS]]
    shown = "" if len(ids) <= MAX_QUESTIONS else f", the first {MAX_QUESTIONS} of {len(ids)} questions"
    return table(f"{name}{shown}", COLUMNS, rows, num_text_columns=len(COLUMNS), has_prose=True)


def _row(example_id: str, before: Answer | None, after: Answer | None) -> list[Cell]:
    known = after or before
    assert known is not None
    # Of a long question the end is what is asked; what stands before it is often the same in all of them.
    asked = _tail(known.question or example_id)
    marks = [MARKS[one.right] for one in (before, after) if one is not None]
    return [
        text_cell(asked),
        text_cell(_head(_text(known.gold))),
        text_cell(_head(before.completion)) if before else EMPTY,
        text_cell(_head(after.completion)) if after else EMPTY,
        text_cell(" \N{RIGHTWARDS ARROW} ".join(marks)),
    ]


def _text(gold: str) -> str:
    """The right answer as it was written: a text, or JSON."""
    value = json.loads(gold)
    return value if isinstance(value, str) else gold


def _head(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _tail(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else "\N{HORIZONTAL ELLIPSIS}" + text[1 - MAX_LETTERS :]
