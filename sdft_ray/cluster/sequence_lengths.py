"""The longest sequences of a run, which its workers need room for, and what the model cannot read of them."""

from collections.abc import Sequence

import numpy as np

from sdft_ray.config import CompletionSource, EvaluationSetConfig, RunConfig
from sdft_ray.data.reasoning import AnswerStart
from sdft_ray.data.tokenized import TokenizedDataset
from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.questions import Question
from sdft_ray.models.resolve import ModelFacts


def longest_sequence(
    cfg: RunConfig,
    facts: ModelFacts,
    dataset: TokenizedDataset,
    asked: Sequence[tuple[EvaluationSetConfig, Sequence[Question]]],
) -> int:
    """Tokens the rollout workers need room for; refuses what the model cannot read."""
    student = int(dataset.rows.prompts.lengths.max()) + _longest_completion(cfg, dataset)
    needed = max(student, longest_teacher_sequence(cfg, dataset))
    if needed > facts.context_length:
        raise ConfigError(
            "rollout.max_new_tokens",
            cfg.rollout.max_new_tokens,
            f"the longest prompt and completion take {needed} tokens, {cfg.model.path} reads {facts.context_length}",
            "lower it, lower data.max_teacher_prompt_tokens with data.too_long=SKIP, or take another model",
        )
    longest = needed if cfg.method.completion is CompletionSource.TEACHER else student
    for settings, questions in asked:
        for question in questions:
            num_tokens = len(question.prompt_tokens) + max(settings.max_new_tokens, len(question.answer_tokens))
            if num_tokens >= facts.context_length:
                raise ConfigError(
                    "evaluation.max_new_tokens",
                    settings.max_new_tokens,
                    f"evaluation example {question.example_id!r} of {settings.source} takes {num_tokens} tokens with "
                    f"its answer, {cfg.model.path} reads {facts.context_length - 1}",
                    "lower it (or the set's own), or take the example out of its set",
                )
            longest = max(longest, num_tokens)
    if cfg.harness.tasks:
        longest = max(longest, cfg.harness.max_tokens)  # a model that reads less is asked less
    return min(longest + 1, facts.context_length)


def check_counted(cfg: RunConfig, dataset: TokenizedDataset, start: AnswerStart) -> None:
    """Refuses a run in which no token of any completion could carry loss; `start` says where it may begin."""
    if not cfg.method.samples and all(start(tokens) is None for tokens in dataset.rows.demonstrations):
        raise ConfigError(
            "loss.skip_until",
            cfg.loss.skip_until,
            "leaves nothing to train on: no demonstration holds it",
            "leave it empty, or write the reasoning that ends with it into the demonstrations",
        )
    longest = _longest_completion(cfg, dataset)
    if cfg.loss.skip_first_tokens >= longest:
        raise ConfigError(
            "loss.skip_first_tokens",
            cfg.loss.skip_first_tokens,
            f"leaves nothing to train on: the longest completion has {longest} tokens",
            f"set it below {longest}; 0 counts every token",
        )


def uncounted_notes(cfg: RunConfig, dataset: TokenizedDataset, start: AnswerStart) -> list[str]:
    """How many demonstrations carry no loss as completions, a sentence.

    Where completions are sampled, a demonstration may well be without loss.skip_until: only its length counts then.
    """
    lengths = dataset.rows.demonstrations.lengths
    is_lost = (lengths > 0) & (lengths <= cfg.loss.skip_first_tokens)
    settings = f"loss.skip_first_tokens={cfg.loss.skip_first_tokens}"
    if cfg.loss.skip_until and not cfg.method.samples:
        starts = [start(tokens) for tokens in dataset.rows.demonstrations]
        begins_late = [begin is None or begin >= length for begin, length in zip(starts, lengths, strict=True)]
        is_lost |= (lengths > 0) & np.array(begins_late)
        settings += f" and loss.skip_until={cfg.loss.skip_until}"
    if not (num_lost := int(is_lost.sum())):
        return []
    taught = "completions as short as these teach nothing" if cfg.method.samples else "nothing of them is learned"
    return [f"{num_lost} of {int((lengths > 0).sum())} demonstrations carry no loss under {settings}: {taught}"]


def _longest_completion(cfg: RunConfig, dataset: TokenizedDataset) -> int:
    if cfg.method.samples:
        return cfg.rollout.max_new_tokens
    return int(dataset.rows.demonstrations.lengths.max())


def longest_teacher_sequence(cfg: RunConfig, dataset: TokenizedDataset) -> int:
    """Tokens of the longest teacher prompt with the longest completion."""
    return int(dataset.rows.teacher_prompts.lengths.max()) + _longest_completion(cfg, dataset)
