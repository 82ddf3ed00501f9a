"""The folders of a run's models, and what makes prompts of text with them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sdft_ray.config import EvaluationContext, Mode, PoolConfig, RunConfig, TeacherBackend
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.models.adapter import check_adapter
from sdft_ray.models.folder_check import check_attention, check_folder, check_trainable, check_values
from sdft_ray.models.resolve import ModelFacts, resolve_model, with_stop_token

LEARNING = (Mode.train, Mode.preflight)  # which start a learner


def find_model(cfg: RunConfig) -> str:
    """The folder of `model.path`, whose weights are those of the network that it describes.

    Raises:
        ConfigError, ModelError: with the key, the value and the remedy.
    """
    folder = resolve_model(cfg.model.path)
    if cfg.mode in LEARNING:
        check_trainable(cfg.model.path, folder)
    check_folder("model.path", cfg.model.path, folder)
    check_attention(folder, cfg.model.attention, on_gpu=cfg.cluster.num_gpus > 0)
    check_adapter(cfg.model.adapter, cfg.model.path, folder)
    if cfg.mode is not Mode.train:  # no learner loads it
        check_values("model.path", cfg.model.path, folder)
    return folder


def find_teacher(cfg: RunConfig) -> str:
    """The folder of `teacher.path`. Raises as `find_model`."""
    folder = resolve_model(cfg.teacher.path, "teacher.path")
    check_folder("teacher.path", cfg.teacher.path, folder)
    if cfg.teacher.backend is TeacherBackend.VLLM:
        check_values("teacher.path", cfg.teacher.path, folder)
    else:
        check_attention(folder, cfg.model.attention, on_gpu=cfg.cluster.num_gpus > 0)
    return folder


def make_builder(
    cfg: RunConfig, tokenizer: Any, facts: ModelFacts, *, compares_tails: bool = True
) -> tuple[PromptBuilder, ModelFacts, list[str]]:
    """The builder of prompts, the facts with its end of turn among the stop tokens, and what to say of both.

    Args:
        cfg: the settings.
        tokenizer: of the model.
        facts: of the model.
        compares_tails: as in `PromptBuilder`.

    Raises:
        ConfigError, ModelError: tokenizer, chat template and teacher template do not fit together.
    """
    builder = PromptBuilder(
        tokenizer,
        cfg.teacher,
        switches=cfg.model.template_switches,
        special_tokens=cfg.data.special_tokens,
        stop_tokens=facts.eos_token_ids,
        compares_tails=compares_tails,
    )
    notes = list(builder.notes)
    stopping = with_stop_token(facts, builder.end_of_turn, tokenizer)
    if stopping != facts:
        token, usual = tokenizer.decode([builder.end_of_turn]), tokenizer.decode(list(facts.eos_token_ids))
        notes.append(f"sampling stops at {token!r}, with which the chat template ends a turn, besides {usual!r}")
    return builder, stopping, [*notes, *_unused_pool(cfg)]


def _unused_pool(cfg: RunConfig) -> list[str]:
    """The settings of a pool that nothing asks, a sentence; () in a check, which asks every pool."""
    contexts = {of_set.context for of_set in cfg.evaluation.named_sets().values()}
    if cfg.teacher.shows_pool or cfg.mode is Mode.check_teacher or EvaluationContext.POOL in contexts:
        return []
    usual, pool = asdict(PoolConfig()), asdict(cfg.teacher.pool)
    if not (given := [key for key in pool if pool[key] != usual[key]]):
        return []
    names = ", ".join(f"teacher.pool.{key}={getattr(pool[key], 'name', pool[key])}" for key in given)
    return [f"{names}: of no account, since teacher.demonstrations=OWN shows no other rows; set POOL or OWN_AND_POOL"]


def decoder(tokenizer: Any, *, keep_special: bool) -> Callable[[tuple[int, ...]], str]:
    """Token ids to text, as the tokenizer writes them."""

    def to_text(tokens: tuple[int, ...]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=not keep_special)
        return text

    return to_text
