"""mode=show: reads tokenizer and data as a run does, and starts nothing; the model's weights need not be there."""

from sdft_ray.cluster.model_inputs import decoder, make_builder
from sdft_ray.cluster.sequence_lengths import uncounted_notes
from sdft_ray.config import LossConfig, RunConfig
from sdft_ray.config.validation import template_label
from sdft_ray.data.mix import read_examples
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.data.rehearsal import read_rehearsal
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
    builder, facts, notes = make_builder(cfg, tokenizer, check_model(folder, tokenizer), compares_tails=False)
    builder.check_mark("loss.skip_until", cfg.loss.skip_until)
    dataset = read_examples(cfg.data, cfg.method, builder, keeps_budgets=False)
    rehearsal = read_rehearsal(cfg.data, builder, batch_size=cfg.batch_size, max_new_tokens=cfg.rollout.max_new_tokens)
    answer_start = BehindMark(cfg.loss.skip_until, decoder(tokenizer, keep_special=True))
    reader = RowReader(cfg, builder, SpanDecoder(tokenizer), answer_start)
    chosen = choose_rows(dataset.rows, cfg.show, cfg.seed)
    shows_teacher = cfg.method.has_teacher and bool(builder.turns.shown)
    return Preview(
        model=cfg.model.path,
        source=cfg.data.origin,
        method=cfg.method.name,
        template=template_label(cfg.teacher.template) if shows_teacher else "",
        num_rows=len(dataset.rows),
        rows=tuple(reader.read(dataset.rows[index], dataset.places[index]) for index in chosen),
        budgets=measure_budgets(dataset, cfg, facts.context_length),
        skipped_by=_skipped_by(cfg.loss),
        notes=(
            *notes,
            *dataset.notes,
            *uncounted_notes(cfg, dataset, answer_start),
            *((*rehearsal.notes, *rehearsal.notes_beside(dataset.rows)) if rehearsal else ()),
        ),
    )


def _skipped_by(loss: LossConfig) -> str:
    settings = [f"loss.skip_first_tokens={loss.skip_first_tokens}"]
    return ", ".join([*settings, f"loss.skip_until={loss.skip_until!r}"] if loss.skip_until else settings)
