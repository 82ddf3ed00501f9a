"""Examples of a source, for tests and benchmarks that want no more of it."""

from collections.abc import Collection, Mapping

from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import ON_DEMAND, RowRules
from sdft_ray.data.sources import load_rows
from sdft_ray.examples import Example


def load_examples(
    source: str,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    system: str = "",
    num_examples: int = 0,
    *,
    required: Collection[str] = ("prompt", "demonstration"),
) -> list[Example]:
    """The examples of a source of which no row may be bad; see `load_rows`."""
    rules = RowRules(columns=columns or {}, system=system, required=required, reads=ON_DEMAND)
    return list(load_rows(source, Selection(split=split, num_examples=num_examples), rules).examples)
