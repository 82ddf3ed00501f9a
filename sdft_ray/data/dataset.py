"""A data set as token ids: what the student is asked, what the teacher is shown, what is given to be learned."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from sdft_ray.config import CompletionSource, DataConfig, MethodConfig, TooLong
from sdft_ray.config.cache import cache_folder
from sdft_ray.data.cache import MIN_ROWS, DatasetCache
from sdft_ray.data.encoding import Encoding
from sdft_ray.data.fingerprint import fingerprint
from sdft_ray.data.pool import open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place, Selection
from sdft_ray.data.rows import COLUMNS_KEY, CONTEXT, RowRules
from sdft_ray.data.sources import BadRows, load_rows
from sdft_ray.data.tokenized import RowsWriter, TokenizedDataset, TokenizedRow, TokenizedRows
from sdft_ray.errors import DataError, SdftError, first_line
from sdft_ray.examples import Example

T = TypeVar("T")


def read_dataset(
    data: DataConfig, method: MethodConfig, builder: PromptBuilder, columns_key: str = COLUMNS_KEY
) -> TokenizedDataset:
    """Reads the examples of a run, makes of them what its method needs, and applies their budgets.

    Args:
        data: the source.
        method: what it learns from decides what a row has to have.
        builder: of the prompts.
        columns_key: the setting that names the columns, for messages.

    Raises:
        ConfigError, DataError: as `read_rows` and `within_budgets`.
    """
    return within_budgets(read_rows(data, method, builder, columns_key), data)


def read_rows(
    data: DataConfig, method: MethodConfig, builder: PromptBuilder, columns_key: str = COLUMNS_KEY
) -> TokenizedDataset:
    """Reads the examples of a run as token ids, whatever their lengths; from the user's cache where they are in it.

    The arguments are those of `read_dataset`.

    Raises:
        ConfigError, DataError: the source does not exist, a row is malformed or lacks what the method needs, or the
            chat template leaves out data.system.
    """
    builder.check_system("data.system", data.system)
    key = fingerprint(data, method, builder) if data.cache else None
    if key is None:
        return _read(data, method, builder, columns_key)
    cache = DatasetCache(cache_folder() / "rows")
    more = []
    try:
        if (kept := cache.load(key)) is not None:
            return kept
    except (OSError, ValueError) as error:
        problem = "is damaged" if isinstance(error, ValueError) else "cannot be read"
        more.append(f"{cache.path(key)}: {problem} ({first_line(error)}), so the data are read again")
    dataset = _read(data, method, builder, columns_key)
    # A source that was written meanwhile is read anew by the next run.
    if len(dataset.rows) >= MIN_ROWS and fingerprint(data, method, builder) == key:
        try:
            cache.store(key, dataset)
        except OSError as error:
            more.append(
                f"{cache.path(key)}: cannot be written ({first_line(error)}), so every start reads the data anew"
            )
    return replace(dataset, notes=(*dataset.notes, *more))


def _read(data: DataConfig, method: MethodConfig, builder: PromptBuilder, columns_key: str) -> TokenizedDataset:
    """Reads the examples themselves. Raises as `read_rows`."""
    raw_text = method.completion is CompletionSource.TEXT
    required = ["text"] if raw_text else ["prompt"]
    teacher = builder.turns.settings
    asks_pool = method.has_teacher and teacher.shows_pool
    if method.completion is CompletionSource.DEMONSTRATION:
        required.append("demonstration")
    is_shown_own = method.has_teacher and "demonstration" in builder.turns.shown and not asks_pool
    shown = ["demonstration"] if is_shown_own else []
    rules = RowRules(
        columns=data.columns,
        columns_key=columns_key,
        system=data.system,
        required=required,
        shown=shown,
        reads=[CONTEXT] if method.has_teacher and builder.turns.asks_fields else [],
    )
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
        notes += pool.notes([example for example in loaded.examples if not example.teacher_messages])
    if raw_text:
        dataset = tokenize_texts(loaded.examples, builder, data, places=loaded.places)
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
    """Makes the prompts of every example.

    Args:
        examples: the data.
        builder: of the prompts.
        data: what happens to examples that cannot be used.
        has_teacher: whether teacher prompts are made.
        places: of the examples; () counts them from 1.

    Raises:
        DataError: an example lacks what the teacher's context shows, or is altered by the chat template, and
            data.on_bad_row=ERROR; or no example is left.
    """
    bad = BadRows(data.source, data.on_bad_row)
    places = places or _counted(data.source, examples)
    encodings = (
        _encoding(example, place, builder, has_teacher=has_teacher)
        for place, example in zip(places, examples, strict=True)
    )
    writer = RowsWriter()
    for place, result in zip(places, builder.encoder.run_all(encodings), strict=True):
        with bad.reading(place):
            writer.append(_made(result), place)
    if not writer.places:
        raise bad.none_good()
    return TokenizedDataset(rows=writer.rows(), places=tuple(writer.places), notes=tuple(bad.notes()))


def over_budget(rows: TokenizedRows, data: DataConfig) -> np.ndarray:
    """True where a prompt is over its budget, [N] bool."""
    over_prompt = rows.prompts.lengths > data.max_prompt_tokens
    over: np.ndarray = over_prompt | (rows.teacher_prompts.lengths > data.max_teacher_prompt_tokens)
    return over


def within_budgets(dataset: TokenizedDataset, data: DataConfig) -> TokenizedDataset:
    """The rows whose prompts keep to their budgets; nothing is ever cut.

    Raises:
        DataError: a prompt is over its budget and data.too_long=REFUSE; or no row is left.
    """
    over = over_budget(dataset.rows, data)
    if not over.any():
        return dataset
    if data.too_long is TooLong.REFUSE:
        first = int(over.argmax())
        raise DataError(*dataset.places[first], *_excess(dataset.rows[first], data))
    if over.all():
        problem = f"all {len(over)} examples are over data.max_prompt_tokens or data.max_teacher_prompt_tokens"
        raise DataError(data.source, 1, problem, "raise these budgets")
    kept, num_skipped = np.flatnonzero(~over), int(over.sum())
    note = f"{data.source}: {num_skipped} examples are over their token budget and are left out"
    return TokenizedDataset(
        rows=dataset.rows.select(kept),
        places=tuple(dataset.places[index] for index in kept.tolist()),
        num_skipped=num_skipped,
        notes=(*dataset.notes, note),
    )


def _counted(source: str, examples: Sequence[Example]) -> list[Place]:
    return [Place(source, line) for line, _ in enumerate(examples, start=1)]


def _encoding(example: Example, place: Place, builder: PromptBuilder, *, has_teacher: bool) -> Encoding[TokenizedRow]:
    """One row.

    Raises:
        DataError: the example lacks what the teacher's context shows.
        ModelError: the chat template cannot render the row, or alters it.
    """
    if has_teacher:
        builder.check_context(example, *place)
    return TokenizedRow(
        example_id=example.example_id,
        prompt_tokens=(yield from builder.student_encoding(example)),
        teacher_prompt_tokens=(yield from builder.teacher_encoding(example)) if has_teacher else (),
        demonstration_tokens=(yield from builder.demonstration_encoding(example)) if example.demonstration else (),
        pool_hits=()
        if example.teacher_messages
        else tuple((hit.example_id, score) for hit, score in example.pool_hits),
    )


def _made(result: T | SdftError) -> T:
    """The result of an encoding; raises its error if it is one."""
    if isinstance(result, SdftError):
        raise result
    return result


def tokenize_texts(
    examples: Sequence[Example], builder: PromptBuilder, data: DataConfig, *, places: Sequence[Place] = ()
) -> TokenizedDataset:
    """The texts of the examples as completions of an empty prompt; a text that several of them share stands once."""
    first_of: dict[str, tuple[Place, Example]] = {}
    for place, example in zip(places or _counted(data.source, examples), examples, strict=True):
        first_of.setdefault(example.text, (place, example))
    results = builder.encoder.run_all(builder.text_encoding(example) for _, example in first_of.values())
    writer = RowsWriter()
    for (place, example), result in zip(first_of.values(), results, strict=True):
        for number, piece in enumerate(_pieces(_made(result), data.max_text_tokens)):
            row = TokenizedRow(
                example_id=f"{example.example_id}#{number}",
                prompt_tokens=(builder.start_of_text,),
                teacher_prompt_tokens=(),
                demonstration_tokens=piece,
            )
            writer.append(row, place)
    return TokenizedDataset(rows=writer.rows(), places=tuple(writer.places))


def _pieces(tokens: tuple[int, ...], longest: int) -> Iterator[tuple[int, ...]]:
    """As few as there can be, of the same length but for one token."""
    num_pieces = -(-len(tokens) // longest)
    for number in range(num_pieces):
        yield tokens[number * len(tokens) // num_pieces : (number + 1) * len(tokens) // num_pieces]


def _excess(row: TokenizedRow, data: DataConfig) -> tuple[str, str]:
    """Problem and remedy of a row that is over a budget."""
    if len(row.prompt_tokens) > data.max_prompt_tokens:
        name, key, length, budget = "prompt", "max_prompt_tokens", len(row.prompt_tokens), data.max_prompt_tokens
    else:
        name, key, budget = "teacher prompt", "max_teacher_prompt_tokens", data.max_teacher_prompt_tokens
        length = len(row.teacher_prompt_tokens)
    problem = f"the {name} of example {row.example_id!r} has {length} tokens, data.{key}={budget}"
    return problem, f"set data.{key}={length} or more, or data.too_long=SKIP to leave such examples out"
