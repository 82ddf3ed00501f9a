"""Which packing a network computes rightly: found by computing real rows, not by a list of names.

A network with recurrent state or a convolution lets it leak from one packed sequence into the next; others ignore where
sequences begin, or add to their attention what packed attention does not know. None of them says so. So every start
computes a few rows as they will be computed, in the mode they will be computed in, and holds the hidden states of every
token against the same rows one by one, with transformers' own plain attention and nothing random.

What leaks is strongest in the first tokens of a sequence. Rounding, which may also choose other experts, acts on any
token. So the difference of a sequence is the median over its first tokens, or over all of them, whichever is larger.

Legend: N tokens of a pack, n of one sequence, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from transformers import PreTrainedModel

from sdft_ray.errors import ModelError, first_line
from sdft_ray.examples import GuardRow
from sdft_ray.models.attention import PACKED, read_layout
from sdft_ray.models.network import FUSED, PLAIN, chooses_attention, set_attention, set_plain_attention
from sdft_ray.models.packing import PackedSequences, Packing, pack_sequences

# Of a token's hidden state: |found - reference| / |reference|. In bf16 rounding came to 0.06 in two layers of experts
# with large weights, to 0.02 without experts; the least leak in 29 families to 0.24.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
FIRST_TOKENS = 3

# How a network says that it cannot compute a pack: a refusal, a shape that does not fit, an argument it does not know.
CANNOT_COMPUTE = (ModelError, ValueError, TypeError, AttributeError, RuntimeError)
# RuntimeErrors that say nothing of the network.
OF_THE_MACHINE = (torch.OutOfMemoryError, torch.distributed.DistError)

# Lengths from which on a network computes otherwise. RoPE of these kinds chooses its frequencies by the longest
# sequence of a forward pass, so that a long one changes the short ones packed beside it.
LIMITS = ("sliding_window", "attention_chunk_size")
ROPE_LIMIT, LENGTH_DEPENDENT_ROPE = "original_max_position_embeddings", ("longrope", "dynamic")

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]  # prompt and completion of each
Forward = Callable[[PackedSequences], torch.Tensor]  # hidden states [T, H] at a pack's predictor_index


@dataclass(frozen=True, slots=True)
class PackingVerdict:
    """How the sequences of a run are laid out from now on."""

    packing: Packing
    attention: str  # the implementation that is set
    difference: float  # from single sequences, relative to a token's hidden state
    rejected: tuple[str, ...]  # what was tried before, each with its reason

    def sentence(self, network: str) -> str:
        """What a person reads in the terminal."""
        if not self.rejected:
            return f"packed sequences are computed as single ones ({self.difference:.0e} apart)"
        how = {
            Packing.SHARED_PREFIX: "shares the prefix of packed sequences",
            Packing.END_TO_END: "computes a common prefix once for each sequence",
            Packing.SINGLE: "computes one sequence at a time, which is right and slower",
        }
        return f"{network} {how[self.packing]} ({self.attention} attention): {self.rejected[-1]}"


@torch.no_grad()
def check_packing(
    network: PreTrainedModel,
    rows: Sequence[GuardRow],
    forward: Forward,
    *,
    attention: str,
    enter_mode: Callable[[], None],
    longest: int,
    agree: Callable[[float], float] = float,
) -> PackingVerdict:
    """Finds the first packing that `network` computes rightly, and leaves its attention and its mode as they passed.

    Args:
        network: its attention and mode are changed; its weights are not.
        rows: at least one.
        forward: computes a pack with `network`; under ZeRO 3 a collective.
        attention: the implementation that is wanted, model.attention.
        enter_mode: puts the network into the mode in which it will compute.
        longest: tokens of the longest sequence that it will compute.
        agree: the largest difference of all ranks, given this rank's; each of them has to decide alike.

    Returns:
        The first that passed of: packed with a shared prefix, packed, one sequence a forward pass.

    Raises:
        ModelError: the network computes no packing as it computes single sequences.
    """
    sequences = [(row.prompt_tokens, row.completion_tokens) for row in (rows if len(rows) > 1 else [*rows, *rows])]
    if _has_limit_below(network, longest):
        sequences.append(_of_length(longest, sequences[0]))
    reference = _reference(network, sequences, forward)
    tolerance = TOLERANCE[reference[0].dtype]
    enter_mode()
    rejected: list[str] = []
    for packing, implementation in _candidates(network, attention):
        try:
            set_attention(network, implementation)
            difference = max(_differences(forward, sequences, packing, reference))
            problem = f"would be {difference:.2g} off"
        except OF_THE_MACHINE:
            raise
        except CANNOT_COMPUTE as error:
            difference, problem = float("inf"), f"cannot be computed ({first_line(error)})"
        if agree(difference) <= tolerance:
            return PackingVerdict(packing, implementation, difference, tuple(rejected))
        rejected.append(f"{_name(packing, implementation)} {problem}")
    raise ModelError(
        f"{type(network).__name__} computes other hidden states while it trains than while it samples: "
        f"{'; '.join(rejected)} (at most {tolerance:g} is rounding). "
        "Set learner.gradient_checkpointing=false and model.dropout=false, or take another model."
    )


def _reference(network: PreTrainedModel, sequences: Sequences, forward: Forward) -> list[torch.Tensor]:
    """The hidden states [n, H] of every sequence alone."""
    network.eval()
    set_plain_attention(network)
    try:
        return [forward(_whole(pack_sequences([sequence]))) for sequence in sequences]
    except OF_THE_MACHINE:
        raise
    except CANNOT_COMPUTE as error:
        problem = f"{type(network).__name__} cannot compute a sequence without a cache ({first_line(error)})"
        raise ModelError(f"{problem}; take another model.") from error


def _candidates(network: PreTrainedModel, attention: str) -> Iterator[tuple[Packing, str]]:
    """The packings to try, the cheapest first, each with the attention it needs."""
    if not chooses_attention(network):
        own = network.config._attn_implementation
        yield from ((Packing.END_TO_END, own), (Packing.SINGLE, own))
        return
    if attention == PACKED:
        yield Packing.SHARED_PREFIX, attention
    yield Packing.END_TO_END, attention
    if attention == PACKED:
        yield Packing.END_TO_END, FUSED  # masks as transformers makes them, of all tokens by all tokens
    yield Packing.SINGLE, attention
    yield from ((Packing.SINGLE, other) for other in (FUSED, PLAIN) if other != attention)


def _has_limit_below(network: PreTrainedModel, longest: int) -> bool:
    """True when sequences of `longest` tokens are computed otherwise than short ones."""
    settings = network.config.get_text_config().to_dict()
    limits = [settings.get(name) for name in LIMITS]
    rope = settings.get("rope_parameters") or {}
    if rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
        limits += [rope.get(ROPE_LIMIT), settings.get(ROPE_LIMIT)]
    return any(limit is not None and limit < longest for limit in limits)


def _of_length(
    length: int, sequence: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A prompt with one token behind it that repeats the tokens of `sequence`, `length` in all."""
    tokens = tuple(islice(cycle((*sequence[0], *sequence[1])), length))
    return tokens[:-1], tokens[-1:]


def _whole(pack: PackedSequences) -> PackedSequences:
    """The pack with the hidden states of all its tokens asked for, not of those that predict a completion only."""
    return pack._replace(predictor_index=np.arange(len(pack.input_ids)))


def _differences(
    forward: Forward, sequences: Sequences, packing: Packing, reference: Sequence[torch.Tensor]
) -> Iterator[float]:
    """How far the hidden states of each sequence are from its reference."""
    if packing is Packing.SINGLE:
        for sequence, expected in zip(sequences, reference, strict=True):
            yield _difference(forward(_whole(pack_sequences([sequence]))), expected)
        return
    pack = _whole(pack_sequences(sequences, share_prefix=packing is Packing.SHARED_PREFIX))
    layout = read_layout(torch.from_numpy(pack.position_ids))
    for index, (found, expected) in enumerate(zip(forward(pack).split(layout.lengths), reference, strict=True)):
        yield _difference(found, expected[layout.begins(index) :])


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The median of the first tokens' differences, or of all tokens', whichever is larger."""
    expected = expected.float()
    lengths = expected.norm(dim=-1)
    # A token may be exactly 0 throughout, such as padding; it is held against tokens of middling length.
    of_token = (found.float() - expected).norm(dim=-1) / lengths.where(lengths > 0, lengths.median())
    # A NaN, which the median may pass over, is a difference as well.
    return (
        float("inf")
        if of_token.isnan().any()
        else max(of_token[:FIRST_TOKENS].median().item(), of_token.median().item())
    )


def _name(packing: Packing, implementation: str) -> str:
    return f"{packing.name} with {implementation} attention"
