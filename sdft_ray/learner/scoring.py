"""What a network makes of given rows, without a loss: the numbers that engines and exported folders are held against.

Legend: T completion tokens of a row, V vocabulary entries that count.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from sdft_ray.distill.distributions import Head
from sdft_ray.examples import GuardRow
from sdft_ray.learner.objective import HeadOutput
from sdft_ray.models.network import completion_hidden, output_head, train_as_sampled
from sdft_ray.models.packing import PackedSequences, pack_sequences
from sdft_ray.models.packing_check import PackingVerdict, check_packing

if TYPE_CHECKING:
    from sdft_ray.learner.engine import StudentEngine

Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def check_student_packing(
    engine: "StudentEngine", rows: Sequence[GuardRow], attention: str, longest: int, device: torch.device
) -> PackingVerdict:
    """Which packing the student computes rightly, see `check_packing`: a collective in which all ranks decide alike.

    Dropout is off during the check, also where the student is trained with it.
    """
    network = engine.network

    def forward(packed: PackedSequences) -> torch.Tensor:
        (hidden,) = engine.forward(**_inputs(packed, device), loss_of=lambda hidden, head: HeadOutput(hidden))
        values: torch.Tensor = hidden
        return values

    verdict = check_packing(
        network,
        rows,
        forward,
        attention=attention,
        enter_mode=lambda: train_as_sampled(network),
        longest=longest,
        agree=partial(_largest_of_all_ranks, device),
    )
    engine.train()
    return verdict


def _largest_of_all_ranks(device: torch.device, value: float) -> float:
    largest = torch.tensor(value, device=device)
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return largest.item()


def student_logits(
    engine: "StudentEngine", rows: Sequence[GuardRow], num_tokens: int, device: torch.device
) -> list[torch.Tensor]:
    """The student's logits [T, V] of every row, in host memory; a collective of all ranks, which get the same."""

    def logits_of(hidden: torch.Tensor, head: Head) -> HeadOutput:
        return HeadOutput(head.logits(hidden, num_tokens))

    engine.eval()
    logits = _one_by_one(lambda inputs: engine.forward(**inputs, loss_of=logits_of)[0], rows, device)
    engine.train()
    return logits


def network_logits(network: PreTrainedModel, rows: Sequence[GuardRow], num_tokens: int) -> list[torch.Tensor]:
    """The same of a network in host memory."""
    head = output_head(network)
    return _one_by_one(
        lambda inputs: head.logits(completion_hidden(network, **inputs), num_tokens), rows, torch.device("cpu")
    )


def row_logprobs(logits: Sequence[torch.Tensor], rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
    """Logprobs [T, nats] of the completion tokens of every row, at temperature 1."""
    return [
        tuple(values.log_softmax(-1).gather(1, torch.tensor(row.completion_tokens)[:, None])[:, 0].tolist())
        for values, row in zip(logits, rows, strict=True)
    ]


@torch.no_grad()
def _one_by_one(forward: Forward, rows: Sequence[GuardRow], device: torch.device) -> list[torch.Tensor]:
    logits = []
    for row in rows:
        packed = pack_sequences([(row.prompt_tokens, row.completion_tokens)])
        logits.append(forward(_inputs(packed, device)).float().cpu())
    return logits


def _inputs(packed: PackedSequences, device: torch.device) -> dict[str, torch.Tensor]:
    """What `Student.forward` takes of a pack."""
    arrays = {name: getattr(packed, name) for name in ("input_ids", "position_ids", "predictor_index")}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
