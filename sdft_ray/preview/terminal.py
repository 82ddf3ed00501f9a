"""A preview on the terminal: special tokens and marks in colour, or in brackets where there is no colour."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdft_ray.preview.rows import Budget, Preview, Reading, ShownRow, Tails
from sdft_ray.preview.spans import Kind, Span

STYLES = {Kind.TEXT: "", Kind.TOKEN: "bold cyan", Kind.MARK: "dim"}


def print_preview(preview: Preview, console: Console) -> None:
    """Prints budgets, then every row in full."""
    examples = f"{preview.num_rows:,} example{'s' if preview.num_rows > 1 else ''}"
    _say(console, f"{examples} of {preview.source}, as {preview.model} will read them")
    template = f", teacher.template={preview.template}" if preview.template else ""
    _say(console, f"method={preview.method}{template}; nothing is started")
    for note in preview.notes:
        _say(console, note)
    console.print(_budget_table(preview.budgets))
    for budget in preview.budgets:
        if budget.num_over:
            over = f"{budget.num_over:,} of {preview.num_rows:,} rows are over {budget.key}={budget.limit}"
            _say(console, f"{over}: {budget.meaning}", "bold red")
    for number, row in enumerate(preview.rows, start=1):
        _print_row(console, row, f"row {number} of {len(preview.rows)}", preview)


def _print_row(console: Console, row: ShownRow, number: str, preview: Preview) -> None:
    console.print()
    _say(console, f"=== {number}: example {row.example_id}, {row.place.source}, {row.place.words}", "bold")
    for key in row.over:
        _say(console, f"over {key}", "bold red")
    _print_reading(console, "student prompt", row.prompt)
    if row.teacher_prompt is not None:
        _print_reading(console, "teacher prompt", row.teacher_prompt)
    if row.shown_of_pool:
        _say(console, f"rows of the pool in it, nearest first: {', '.join(row.shown_of_pool)}", "dim")
    if row.tails is not None:
        _print_tails(console, row.tails)
    if row.uncounted.num_tokens + row.counted.num_tokens:
        num_tokens, counted = row.uncounted.num_tokens + row.counted.num_tokens, row.counted.num_tokens
        of_loss = f"{counted} of them carry loss where this is the completion"
        _say(console, f"--- demonstration: {num_tokens} tokens, {of_loss}", "bold")
        if row.uncounted.num_tokens:
            _say(console, f"no loss ({preview.skipped_by}):", "dim")
            _print_spans(console, row.uncounted.spans)
        _say(console, "loss:", "dim")
        _print_spans(console, row.counted.spans)


def _print_reading(console: Console, name: str, reading: Reading) -> None:
    _say(console, f"--- {name}: {reading.num_tokens} tokens", "bold")
    _print_spans(console, reading.spans)


def _print_tails(console: Console, tails: Tails) -> None:
    table = Table("student prompt ends", "teacher prompt ends", box=box.SIMPLE_HEAD)
    for text in (texts := (_text(console, tails.student), _text(console, tails.teacher))):
        text.rstrip()  # a line end at the end has its mark
    table.add_row(*texts)
    console.print(table)
    if tails.are_same:
        _say(console, f"both end with the same {tails.num_tokens} tokens behind the user's turn")
    else:
        _say(console, "the prompts end differently behind the user's turn: a switch of the template?", "bold red")


def _budget_table(budgets: Sequence[Budget]) -> Table:
    table = Table("tokens of", "shortest", "median", "longest", "budget", "over it", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for budget in budgets:
        lengths = (budget.shortest, budget.median, budget.longest, budget.limit, budget.num_over)
        table.add_row(budget.name, *(f"{length:,}" for length in lengths))
    return table


def _print_spans(console: Console, spans: Sequence[Span]) -> None:
    # What no terminal shows goes to a file or a program, whose lines are the text's own.
    console.print(_text(console, spans), soft_wrap=not console.is_terminal)


def _text(console: Console, spans: Sequence[Span]) -> Text:
    has_colours = console.color_system is not None and not console.no_color
    text = Text(overflow="fold")
    for span in spans:
        is_bracketed = span.kind is Kind.TOKEN and not has_colours
        text.append(f"[{span.text}]" if is_bracketed else span.text, STYLES[span.kind])
    return text


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=not console.is_terminal)
