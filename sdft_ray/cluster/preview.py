"""mode=show: reads tokenizer and data as a run does, and starts nothing; the model's weights need not be there."""

from sdft_ray.cluster.model_inputs import make_builder
from sdft_ray.config import RunConfig
from sdft_ray.data.dataset import read_rows
from sdft_ray.data.teacher_template import template_label
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import check_model, resolve_model
from sdft_ray.preview.rows import Preview, RowReader, choose_rows, measure_budgets
from sdft_ray.preview.spans import SpanDecoder


def read_preview(cfg: RunConfig) -> Preview:
    """What the model will read of the rows that `show` chooses.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    folder = resolve_model(cfg.model.path)
    tokenizer = load_tokenizer(folder, cfg.model.chat_template)
    builder, facts, notes = make_builder(cfg, tokenizer, check_model(folder, tokenizer))
    dataset = read_rows(cfg.data, cfg.method, builder)
    reader = RowReader(cfg, builder, SpanDecoder(tokenizer))
    chosen = choose_rows(dataset.rows, cfg.show, cfg.seed)
    shows_teacher = cfg.method.has_teacher and bool(builder.turns.shown)
    return Preview(
        model=cfg.model.path,
        source=cfg.data.source,
        method=cfg.method.name,
        template=template_label(cfg.teacher.template) if shows_teacher else "",
        num_rows=len(dataset.rows),
        rows=tuple(reader.read(dataset.rows[index], dataset.places[index]) for index in chosen),
        budgets=measure_budgets(dataset, cfg, facts.context_length),
        skipped_by=f"loss.skip_first_tokens={cfg.loss.skip_first_tokens}",
        notes=(*notes, *dataset.notes),
    )
