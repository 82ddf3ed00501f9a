"""The examples of a run: of `data.source`, or of all sources of `data.mix`.

Above `dataset.py`, which knows one source and reads each of a mix as if it were the only one.
"""

from sdft_ray.config import DataConfig, MethodConfig
from sdft_ray.data.dataset import read_dataset, read_rows
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place
from sdft_ray.data.rows import COLUMNS_KEY
from sdft_ray.data.tokenized import MixPart, TokenizedDataset, TokenizedRows
from sdft_ray.errors import ConfigError, DataError


def read_examples(
    data: DataConfig, method: MethodConfig, builder: PromptBuilder, *, keeps_budgets: bool = True
) -> TokenizedDataset:
    """The examples of a run; those of a mix source by source, with the source's name before their ids.

    Two sources may each have a row "line-1".

    Args:
        data: the sources, and what holds for all of them.
        method: what it learns from decides what a row has to have.
        builder: of the prompts.
        keeps_budgets: whether rows over their budgets are refused or left out, as data.too_long says.

    Raises:
        ConfigError, DataError: as `read_dataset`; of a mix, the message begins with the source's name in it.
    """
    read = read_dataset if keeps_budgets else read_rows
    if not data.mix:
        return read(data, method, builder)
    parts_rows: list[TokenizedRows] = []
    places: list[Place] = []
    parts: list[MixPart] = []
    notes: list[str] = []
    num_skipped = 0
    is_own_pool = not builder.turns.settings.pool.source
    for name, source in data.mix_sources().items():
        columns_key = COLUMNS_KEY if source.columns is None else f"data.mix.{name}.columns"
        try:
            dataset = read(data.of_source(source), method, builder, columns_key)
        except (ConfigError, DataError) as error:
            raise error.of(f"data.mix.{name}", f"data.mix.{name}.source") from error
        parts_rows.append(dataset.rows.named(f"{name}:", names_hits=is_own_pool))
        places += dataset.places
        parts.append(MixPart(name, source.weight, len(dataset.rows)))
        notes += dataset.notes
        num_skipped += dataset.num_skipped
    if is_own_pool and any(any(part.pool_hits) for part in parts_rows):
        notes.append("data.mix: every source is a pool of its own; teacher.pool.source would name one for all")
    return TokenizedDataset(
        rows=TokenizedRows.joined(parts_rows),
        places=tuple(places),
        num_skipped=num_skipped,
        mix=tuple(parts),
        notes=tuple(notes),
    )
