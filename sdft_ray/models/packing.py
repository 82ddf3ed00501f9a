"""Sequences packed end to end for one forward pass.

Where a sequence begins is read off the position ids again by `models/attention.py`: this file and that one know the
layout of a pack, and no other does.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

import numpy as np


class Packing(Enum):
    """How the sequences of a forward pass are laid out. `packing_check.py` finds the first that a network computes."""

    SHARED_PREFIX = auto()  # end to end; what all prompts begin with stands once
    END_TO_END = auto()
    SINGLE = auto()  # one sequence a forward pass: slower, and right for every network


class PackedSequences(NamedTuple):
    """Prompts with their completions, end to end. N tokens in all, T completion tokens."""

    input_ids: np.ndarray  # [N] int64
    position_ids: np.ndarray  # [N] int64: a sequence starts where they do not go on by one
    predictor_index: np.ndarray  # [T] int64: where completion token t is predicted, one before it
    completion_ids: np.ndarray  # [T] int64
    sequence_ids: np.ndarray  # [T] int64


def pack_sequences(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, share_prefix: bool = False
) -> PackedSequences:
    """Packs (prompt, completion) pairs; both must hold at least one token.

    The last completion token predicts nothing that is scored, so it is not fed to the network. With `share_prefix`
    what all prompts begin with stands once, at the start of the pack, and every other sequence starts at the position
    behind it.
    """
    inputs: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    completions: list[int] = []
    owners: list[int] = []
    shared = _common_prefix([prompt for prompt, _ in sequences]) if share_prefix else 0
    for owner, (prompt, completion) in enumerate(sequences):
        if not prompt or not completion:
            raise ValueError(f"sequence {owner}: prompt of {len(prompt)} tokens, completion of {len(completion)}")
        length = len(prompt) + len(completion) - 1
        begin = shared if owner else 0
        inputs.extend((*prompt, *completion[:-1])[begin:])
        positions.extend(range(begin, length))
        predictors.extend(range(len(inputs) - len(completion), len(inputs)))
        completions.extend(completion)
        owners.extend([owner] * len(completion))
    return PackedSequences(
        *(np.asarray(values, dtype=np.int64) for values in (inputs, positions, predictors, completions, owners))
    )


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens all prompts begin with; the last one of a prompt, which predicts, is never among them."""
    length = 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length
