"""A data set as token ids: what the student is asked, what the teacher is shown, what is given to be learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sdft_ray.config import CompletionSource, DataConfig, MethodConfig, TooLong
from sdft_ray.data.pool import open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place, Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import BadRows, load_rows
from sdft_ray.errors import DataError
from sdft_ray.records import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedRow:
    """One example as token ids, before the stream gives it an epoch."""

    example_id: str
    prompt_tokens: tuple[int, ...]  # [P]
    teacher_prompt_tokens: tuple[int, ...]  # [P']; empty where the method has no teacher
    demonstration_tokens: tuple[int, ...]  # [T]; raw text under method.completion=TEXT; empty where there is none
    # Ids and scores of the pool's rows in the teacher prompt. A checkpoint knows the data by that prompt, not by these.
    pool_hits: tuple[tuple[str, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedDataset:
    """The examples that keep to their budgets, and how many do not."""

    rows: tuple[TokenizedRow, ...]
    num_skipped: int
    notes: tuple[str, ...] = ()  # what the user should know of the data, a sentence each


def read_dataset(data: DataConfig, method: MethodConfig, builder: PromptBuilder) -> TokenizedDataset:
    """Reads the examples of a run and makes of them what its method needs.

    Raises:
        ConfigError, DataError: the source does not exist, a row is malformed or lacks what the method needs, or the
            chat template leaves out data.system.
    """
    builder.check_system("data.system", data.system)
    raw_text = method.completion is CompletionSource.TEXT
    required = ["text"] if raw_text else ["prompt"]
    teacher = builder.teacher_settings
    asks_pool = method.has_teacher and teacher.shows_pool
    is_shown_own = method.has_teacher and "demonstration" in builder.shown and not asks_pool
    if method.completion is CompletionSource.DEMONSTRATION or is_shown_own:
        required.append("demonstration")
    rules = RowRules(columns=data.columns, system=data.system, required=required)
    try:
        loaded = load_rows(data.source, Selection.of(data, data.num_examples), rules, data.on_bad_row)
    except DataError as error:
        if teacher.shows_pool and method.completion is CompletionSource.DEMONSTRATION:
            raise error.adding(
                f"method={method.name} learns each row's own demonstration; a pool gives it none."
            ) from None
        raise
    notes = loaded.notes("data.num_examples", data.num_examples)
    if asks_pool:
        pool = open_pool(teacher.pool, data, training=loaded.examples, fields=["demonstration"])
        loaded = replace(loaded, examples=pool.fill(loaded.examples))
        notes.append(pool.note)
    if raw_text:
        dataset = tokenize_texts(loaded.examples, builder, data)
    else:
        dataset = tokenize_examples(
            loaded.examples, builder, data, has_teacher=method.has_teacher, places=loaded.places
        )
    return replace(dataset, notes=(*notes, *dataset.notes))


def tokenize_examples(
    examples: Sequence[Example],
    builder: PromptBuilder,
    data: DataConfig,
    *,
    has_teacher: bool = True,
    places: Sequence[Place] = (),
) -> TokenizedDataset:
    """Makes the prompts of every example and applies their budgets; nothing is ever cut.

    Args:
        examples: the data.
        builder: of the prompts.
        data: its budgets, and what happens to examples that cannot be used.
        has_teacher: whether teacher prompts are made.
        places: of the examples; () counts them from 1.

    Raises:
        DataError: an example lacks what the teacher's context shows, or is altered by the chat template, and
            data.on_bad_row=ERROR; a prompt is over its budget and data.too_long=REFUSE; or no example is left.
    """
    tokenized: list[tuple[Place, TokenizedRow]] = []
    bad = BadRows(data.source, data.on_bad_row)
    places = places or [Place(data.source, line) for line, _ in enumerate(examples, start=1)]
    for place, example in zip(places, examples, strict=True):
        with bad.reading(place):
            if has_teacher:
                builder.check_context(example, *place)
            tokenized.append((place, _tokenize(example, builder, has_teacher=has_teacher)))
    rows = []
    num_skipped = 0
    for place, row in tokenized:
        excess = _excess(row, data)
        if not excess:
            rows.append(row)
        elif data.too_long is TooLong.REFUSE:
            raise DataError(*place, *excess)
        else:
            num_skipped += 1
    notes = bad.notes()
    if num_skipped:
        notes.append(f"{data.source}: {num_skipped} examples are over their token budget and are left out")
    if not tokenized:
        raise bad.none_good()
    if not rows:
        problem = f"all {len(tokenized)} examples are over data.max_prompt_tokens or data.max_teacher_prompt_tokens"
        raise DataError(data.source, 1, problem, "raise these budgets")
    return TokenizedDataset(rows=tuple(rows), num_skipped=num_skipped, notes=tuple(notes))


def _tokenize(example: Example, builder: PromptBuilder, *, has_teacher: bool) -> TokenizedRow:
    """One row.

    Raises:
        ModelError: the chat template cannot render the row, or alters it.
    """
    return TokenizedRow(
        example_id=example.example_id,
        prompt_tokens=builder.student(example),
        teacher_prompt_tokens=builder.teacher(example) if has_teacher else (),
        demonstration_tokens=builder.demonstration(example) if example.demonstration else (),
        pool_hits=tuple((hit.example_id, score) for hit, score in example.pool_hits),
    )


def tokenize_texts(examples: Sequence[Example], builder: PromptBuilder, data: DataConfig) -> TokenizedDataset:
    """The texts of the examples as completions of an empty prompt; a text that several of them share stands once."""
    first_of: dict[str, Example] = {}
    for example in examples:
        first_of.setdefault(example.text, example)
    rows = [
        TokenizedRow(
            example_id=f"{example.example_id}#{number}",
            prompt_tokens=(builder.start_of_text,),
            teacher_prompt_tokens=(),
            demonstration_tokens=piece,
        )
        for example in first_of.values()
        for number, piece in enumerate(_pieces(builder.text(example), data.max_text_tokens))
    ]
    return TokenizedDataset(rows=tuple(rows), num_skipped=0)


def _pieces(tokens: tuple[int, ...], longest: int) -> Iterator[tuple[int, ...]]:
    """As few as there can be, of the same length but for one token."""
    num_pieces = -(-len(tokens) // longest)
    for number in range(num_pieces):
        yield tokens[number * len(tokens) // num_pieces : (number + 1) * len(tokens) // num_pieces]


def _excess(row: TokenizedRow, data: DataConfig) -> tuple[str, str] | None:
    """Problem and remedy of a prompt over its budget."""
    lengths = {
        "max_prompt_tokens": ("prompt", len(row.prompt_tokens), data.max_prompt_tokens),
        "max_teacher_prompt_tokens": (
            "teacher prompt",
            len(row.teacher_prompt_tokens),
            data.max_teacher_prompt_tokens,
        ),
    }
    for key, (name, length, budget) in lengths.items():
        if length > budget:
            problem = f"the {name} of example {row.example_id!r} has {length} tokens, data.{key}={budget}"
            return (
                problem,
                f"set data.{key}={length} or more, or data.too_long=SKIP to leave such examples out",
            )
    return None
