"""The rows of an evaluation set as questions, each with an answer it can be held against."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sdft_ray.config import PRIOR, DataConfig, EvaluationContext, EvaluationSetConfig, Match
from sdft_ray.conversation import Message, last_of, written_out
from sdft_ray.data.pool import open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place, Selection
from sdft_ray.data.rows import ANSWERS, RowRules
from sdft_ray.data.sources import BadRows, load_rows, named
from sdft_ray.data.values import quoted
from sdft_ray.errors import DataError
from sdft_ray.evaluation.scorers import Gold, check_gold
from sdft_ray.examples import Example

RESULT_MARK = "####"  # GSM8K and its kin write the result behind it, and the way there in front
LONGEST_RESULT = 20  # words; longer answers are mostly explanations


class Question(NamedTuple):
    """One row of an evaluation set."""

    example_id: str
    prompt_tokens: tuple[int, ...]  # [P]
    answer: str
    answer_tokens: tuple[int, ...]  # [T] a gold completion (the demonstration, else the answer) with its end token
    acceptable: str = ""  # see `scorers.Gold`
    turns: tuple[Message, ...] = ()  # the prompt before it became tokens, without the set's context
    context: tuple[Message, ...] = ()  # the turns that stand in place of the user's last one, under the set's context

    @property
    def text(self) -> str:
        """The prompt as a judge reads it."""
        return written_out(self.turns)

    @property
    def given_texts(self) -> tuple[str, ...]:
        """What a completion may echo."""
        return given_texts((*self.turns, *self.context))


def given_texts(turns: Sequence[Message]) -> tuple[str, ...]:
    """What a completion of a prompt may echo: all turns but those of assistant and tools, which it may well repeat."""
    return tuple(turn.content for turn in turns if turn.role not in ("assistant", "tool"))


def with_called_answer(row: Example, match: Match) -> Example:
    """The row with the calls of its demonstration as the answer, where tool calls are matched and it has no other."""
    turn = row.demonstration_turn
    if match is not Match.TOOL_CALL or turn is None or row.answer.strip():
        return row
    return replace(row, answer=f"[{', '.join(call.text for call in turn.tool_calls)}]")


class QuestionSet(NamedTuple):
    """An evaluation set as it was read."""

    questions: list[Question]
    notes: list[str]  # what the user should know of it, a sentence each


def read_questions(key: str, settings: EvaluationSetConfig, data: DataConfig, builder: PromptBuilder) -> QuestionSet:
    """Reads an evaluation set. Its rows need a prompt and an answer; a demonstration may stand beside them.

    Args:
        key: where the set stands in the settings, such as evaluation.sets.taught.
        settings: its source, and how its answers are matched.
        data: columns, system message and on_bad_row of a set that names none.
        builder: of the prompts.

    Raises:
        ConfigError: the source does not exist, or the chat template leaves out the system message.
        DataError: a row is malformed, has no answer, an answer that its match cannot use, or is altered by the chat
            template, and on_bad_row=ERROR; or no row is left.
    """
    system = data.system if settings.system is None else settings.system
    builder.check_system("data.system" if settings.system is None else f"{key}.system", system)
    rules = RowRules(
        columns=data.columns if settings.columns is None else settings.columns,
        system=system,
        required=("prompt", *_REQUIRED.get(settings.context, ())),
        reads=ANSWERS,
        columns_key=f"{key}.columns",
        shared_columns=settings.columns is None,
    )
    on_bad_row = data.on_bad_row if settings.on_bad_row is None else settings.on_bad_row
    bad = BadRows(settings.source, on_bad_row, "data" if settings.on_bad_row is None else key)
    selection = Selection.of(settings, settings.num_questions)
    try:
        with named(key if key == f"evaluation.{PRIOR}" else f"{key}.source"):  # the prior is given as its source alone
            loaded = load_rows(settings.source, selection, rules, on_bad_row, bad.key)
    except DataError as error:
        if settings.context in _REQUIRED:
            raise error.adding(f"{key}.context={settings.context.name} gives it with each question.") from None
        raise
    examples, notes = loaded.examples, loaded.notes(f"{key}.num_questions", settings.num_questions)
    if settings.context is EvaluationContext.POOL:
        pool = open_pool(builder.turns.settings.pool, data, fields=["demonstration", "text"])
        examples = pool.fill(examples)
        notes += [f"{key}: {note}" for note in pool.notes(examples)]
    questions: list[Question] = []
    for place, row in zip(loaded.places, examples, strict=True):
        with bad.reading(place):
            scored = with_called_answer(row, settings.match)
            _check_answer(key, settings, place, scored)
            questions.append(_question(scored, builder, settings.context))
    if not questions:
        raise bad.none_good()
    return QuestionSet(questions, [*notes, *bad.notes(), *_answer_notes(key, settings, questions)])


def _check_answer(key: str, settings: EvaluationSetConfig, place: Place, row: Example) -> None:
    if not row.answer.strip():
        problem = f"evaluation example {row.example_id!r} has no answer"
        remedy = f"fill answer ({key}.columns, else data.columns, names its column), or leave {key} out"
        raise DataError(*place, problem, remedy)
    try:
        check_gold(Gold(row.answer, row.acceptable), settings.match)
    except ValueError as error:
        problem = (
            f"the answer {quoted(row.answer)} of {row.example_id!r} does not fit {key}.match={settings.match.name}: "
            f"{error}"
        )
        raise DataError(*place, problem, f"mend it, or set another of {_MATCHES}") from error


def _answer_notes(key: str, settings: EvaluationSetConfig, questions: Sequence[Question]) -> list[str]:
    """How many answers hold more than a result, all of whose words the match asks for; a sentence."""
    if settings.match not in (Match.CONTAINS, Match.EXACT):
        return []
    long = [each for each in questions if RESULT_MARK in each.answer or len(each.answer.split()) > LONGEST_RESULT]
    if not long:
        return []
    return [
        f"{key}: {len(long)} of {len(questions)} answers hold {RESULT_MARK} or over {LONGEST_RESULT} words (first: "
        f"example {long[0].example_id!r}); match={settings.match.name} counts as right only what repeats them word for "
        "word: fill answer with the result alone, or set match=JUDGE"
    ]


def _question(row: Example, builder: PromptBuilder, context: EvaluationContext) -> Question:
    given = _with_context(row, context)
    place = last_of("user", row.prompt)
    asked = replace(row, prompt=(*row.prompt[:place], *given, *row.prompt[place + 1 :]) if given else row.prompt)
    return Question(
        example_id=row.example_id,
        prompt_tokens=builder.student(asked),
        answer=row.answer,
        answer_tokens=builder.demonstration(asked if row.demonstration else replace(asked, demonstration=row.answer)),
        acceptable=row.acceptable,
        turns=row.prompt,
        context=given,
    )


def _with_context(row: Example, context: EvaluationContext) -> tuple[Message, ...]:
    """The turns that replace the user's last: demonstrations as turns, nearest last, and texts above the question."""
    question = row.prompt[last_of("user", row.prompt)]
    texts: list[str] = []
    demonstrations: list[tuple[tuple[Message, ...], str]] = []
    if context is EvaluationContext.NONE:
        return ()
    if context is EvaluationContext.TEXT:
        texts.append(row.text)
    elif context is EvaluationContext.DEMONSTRATION:
        demonstrations += [((question,), own) for own in (row.demonstration, *row.further_demonstrations)]
    else:
        texts += [hit.text for hit, _ in row.pool_hits if hit.text.strip()]
        demonstrations += [(hit.conversation, hit.demonstration) for hit, _ in row.pool_hits if not hit.text.strip()]
    turns = []
    for asked, answered in reversed(demonstrations):
        turns += [*asked, Message(role="assistant", content=answered)]
    above = "".join(f"Here is a text that bears on it:\n\n{text}\n\n" for text in dict.fromkeys(texts))
    return (*turns, replace(question, content=above + question.content))


# What rows have to have for a context.
_REQUIRED = {EvaluationContext.TEXT: ("text",), EvaluationContext.DEMONSTRATION: ("demonstration",)}
_MATCHES = ", ".join(match.name for match in Match)
