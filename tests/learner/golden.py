"""A tiny model, its batches and its teacher, all by formula, and what three steps of the learner make of them.

No random number generator is asked, since a stream of random numbers may change with a release. `golden.json` holds
the values that were measured; `differences` says which of them moved.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdft_ray.config import Divergence, LossConfig, MismatchCorrection, Payload, Target
from sdft_ray.records import HiddenPayload, LogitsPayload, Rollout, TeacherPayload

GOLDEN_FILE = Path(__file__).with_name("golden.json")
NUM_STEPS = 3
BATCH_SIZE = 5
VOCAB, NUM_TOKENS, HIDDEN = 67, 64, 32  # the last three rows of the head are padding

Steps = list[dict[str, Any]]  # a step's loss, gradient norm, and divergence [T] of every sample


class Case(NamedTuple):
    """What one set of golden values was measured with."""

    target: Target
    loss: LossConfig
    payload: Payload


CASES = {
    "reverse_kl": Case(
        Target.TEACHER, LossConfig(divergence=Divergence.REVERSE_KL, skip_first_tokens=1), Payload.LOGITS
    ),
    "forward_kl": Case(
        Target.TEACHER, LossConfig(divergence=Divergence.FORWARD_KL, skip_first_tokens=1), Payload.HIDDEN
    ),
    "sft": Case(Target.TOKEN, LossConfig(skip_first_tokens=0, mismatch=MismatchCorrection.NONE), Payload.LOGITS),
}


def uniform(key: str, *shape: int) -> np.ndarray:
    """Numbers in [-0.5, 0.5) that depend on `key` and their place alone: SplitMix64 of both, float32, exact."""
    mixed = np.arange(np.prod(shape), dtype=np.uint64) + (np.uint64(zlib.crc32(key.encode())) << np.uint64(32))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)).reshape(shape)


def tokens(key: str, count: int) -> tuple[int, ...]:
    return tuple(int((value + 0.5) * NUM_TOKENS) for value in uniform(key, count))


def make_golden_model(folder: Path) -> str:
    """Saves the model; returns its folder."""
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            dtype="float32",
        )
    )
    with torch.no_grad():
        for name, param in network.named_parameters():
            values = torch.from_numpy(uniform(name, *param.shape))
            param.copy_(1 + 0.5 * values if param.ndim == 1 else 0.7 * values)
    network.save_pretrained(folder)
    return str(folder)


def rollout(step: int, index: int) -> Rollout:
    """A completion of 2 to 8 tokens; the prompts of a batch begin with the same four tokens."""
    key = f"step {step} sample {index}"
    length = 2 + (3 * index + 2 * step) % 7
    return Rollout(
        prompt_tokens=tokens(f"step {step}", 4) + tokens(f"{key} prompt", 1 + index),
        completion_tokens=tokens(f"{key} completion", length),
        logprobs=tuple((2 * uniform(f"{key} logprobs", length) - 4).tolist()),
        weight_version=step,
        truncated=False,
        num_sampled=length,
    )


def teacher_payload(kind: Payload, step: int, index: int) -> TeacherPayload:
    key, length = f"step {step} sample {index} {kind.name}", len(rollout(step, index).completion_tokens)
    if kind is Payload.HIDDEN:
        return HiddenPayload(hidden=4 * uniform(key, length, HIDDEN))
    return LogitsPayload(logits=8 * uniform(key, length, VOCAB))


def differences(case: str, golden: Steps, measured: Steps, *, relative: float) -> list[str]:
    """One line for each quantity that moved, at the first step (and token) where it did; [] where all is as it was."""
    moved: dict[str, tuple[str, float, float]] = {}
    counts: dict[str, int] = {}
    pairs = zip(quantities(golden), quantities(measured), strict=True)
    for (quantity, place, before), (_, same_place, now) in pairs:
        if place != same_place:
            raise ValueError(f"{case}: {place} of the golden values is {same_place} of the measured ones")
        if not np.isclose(now, before, rtol=relative, atol=0.0):
            moved.setdefault(quantity, (place, before, now))
            counts[quantity] = counts.get(quantity, 0) + 1
    return [
        f"{case}: {quantity} moved by {now - before:+.3g} ({(now - before) / before:+.1e} of it) in {place}, "
        f"from {before:.8g} to {now:.8g}; {counts[quantity]} of its values moved"
        for quantity, (place, before, now) in moved.items()
    ]


def quantities(steps: Steps) -> Iterator[tuple[str, str, float]]:
    """Quantity, place and value, in the order in which one follows from the other."""
    for number, step in enumerate(steps, 1):
        for sample, values in step["divergence"].items():
            for token, value in enumerate(values):
                yield "divergence", f"step {number}, {sample}, token {token}", value
        yield "loss", f"step {number}", step["loss"]
        yield "grad_norm", f"step {number}", step["grad_norm"]


def read_golden() -> dict[str, Steps]:
    return json.loads(GOLDEN_FILE.read_text())


def write_golden(path: Path, cases: dict[str, Steps]) -> None:
    """Writes values with nine digits, as many as a float32 has."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(part) for key, part in value.items()}
        return [rounded(part) for part in value] if isinstance(value, list) else float(f"{value:.9g}")

    path.write_text(json.dumps(rounded(cases), indent=1) + "\n")
