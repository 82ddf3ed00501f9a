"""What the student minimises: the network as DeepSpeed wraps it, and the loss of one microbatch that it ends in.

The head is a module of its own that owns the head's parameters (the network's, not copies), so that whatever
DeepSpeed does around a module's forward pass it does around exactly them: under ZeRO 3 the head is gathered while the
loss is computed, and nothing else is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from sdft_ray.config import LossConfig, Tail, Target
from sdft_ray.distill.distributions import Head, TeacherRows
from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.fused_loss import fused_teacher_loss, fused_token_loss
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.learner.metrics import TopsBySequence, top_tokens
from sdft_ray.learner.nonfinite import find_nonfinite
from sdft_ray.learner.teacher import TeacherHeads, open_payloads
from sdft_ray.models.adapter import drop_inputs
from sdft_ray.models.network import (
    PROBE_TOKENS,
    compare_head,
    completion_hidden,
    output_head,
    plain_attention,
    train_as_configured,
    train_as_sampled,
)
from sdft_ray.records import Microbatch
from sdft_ray.tensors import to_tensor

TOKEN_TARGETS = {Target.TOKEN: "nll", Target.TOKEN_DFT: "dft"}


class HeadOutput(NamedTuple):
    """Hidden states [T, H] or logits [T, V] that `StudentHead` is asked for in place of a loss."""

    values: torch.Tensor

    def as_tuple(self) -> tuple[torch.Tensor, ...]:
        """As `LossOutput.as_tuple`."""
        return tuple(self)


LossOf = Callable[[torch.Tensor, Head], LossOutput | HeadOutput]


class Forward(Protocol):
    """`Student.forward`, of the student itself or of the engine around it."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        predictor_index: torch.Tensor,
        loss_of: LossOf | None,
    ) -> tuple[torch.Tensor, ...]:
        """See `Student.forward`."""
        ...


class Student(torch.nn.Module):
    """A causal language model that ends in a loss instead of logits."""

    def __init__(self, network: PreTrainedModel, *, dropout: bool = False, adapter_dropout: bool = False):
        """`dropout` keeps what makes the training of `network` random, `adapter_dropout` that of its adapter."""
        super().__init__()
        self.network = network
        self.head = StudentHead(output_head(network))
        self._dropout, self._adapter_dropout = dropout, adapter_dropout

    def train(self, mode: bool = True) -> "Student":
        """The mode of a training step, in which the network computes as it samples unless dropout is kept."""
        super().train(mode)
        if mode:
            (train_as_configured if self._dropout else train_as_sampled)(self.network)
            if self._adapter_dropout:
                drop_inputs(self.network)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        predictor_index: torch.Tensor,
        loss_of: LossOf | None,
    ) -> tuple[torch.Tensor, ...]:
        """The fields of `loss_of`'s answer for the hidden states [T, H] of the completion positions and the head.

        Without `loss_of`, the network's own logits [T, R] at these positions.
        """
        if loss_of is None:
            output = self.network(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False)
            return (output.logits[0, predictor_index],)
        hidden = completion_hidden(self.network, input_ids, position_ids, predictor_index)
        result: tuple[torch.Tensor, ...] = self.head(hidden, loss_of)
        return result


class StudentHead(torch.nn.Module):
    """Holds the parameters that the loss multiplies hidden states with."""

    def __init__(self, head: Head):
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self._transform = head.scale, head.softcap
        self.gradient: Callable[[], torch.Tensor] | None = None  # see `Head.gradient`

    def forward(self, hidden: torch.Tensor, loss_of: LossOf) -> tuple[torch.Tensor, ...]:
        """A tuple, since DeepSpeed finds the tensors it has to watch in tuples but not in dataclasses."""
        return loss_of(hidden, Head(self.weight, self.bias, *self._transform, self.gradient)).as_tuple()


class Objective:
    """What the student minimises, for every method: a divergence to the teacher, or the likelihood of tokens."""

    def __init__(
        self,
        *,
        target: Target,
        loss: LossConfig,
        tail: Tail,
        temperature: float,
        num_tokens: int,
        heads: TeacherHeads,
        device: torch.device,
    ):
        """`num_tokens` vocabulary rows count on both sides; rows beyond them are padding.

        `temperature` is the sampler's. Token targets are not compared with what a sampler drew, so theirs is 1.
        """
        temperature = 1.0 if target in TOKEN_TARGETS else temperature
        self._target = target
        self._tail = tail
        self._temperature = temperature
        self._num_tokens = num_tokens
        self._heads = heads
        self._device = device
        self._settings = LossSettings(
            divergence=loss.divergence.name.lower(),
            jsd_beta=loss.jsd_beta,
            estimator=loss.estimator.name.lower(),  # type: ignore[arg-type]
            temperature=temperature,
            mismatch=loss.mismatch.name.lower(),  # type: ignore[arg-type]
            mismatch_clip=loss.mismatch_clip,
        )

    def __call__(self, forward: Forward, microbatch: Microbatch) -> tuple[LossOutput, TopsBySequence, dict[int, str]]:
        """Runs the student on `microbatch` by its `forward`.

        Returns:
            The loss, connected to the student's graph, the top tokens of the reported sequences, and what is NaN or
            infinite, by the sequences in which it is.
        """
        teacher = None
        if self._target not in TOKEN_TARGETS:
            teacher = open_payloads(microbatch, self._heads, self._tail.name.lower(), self._device)  # type: ignore[arg-type]
        tops: TopsBySequence = {}
        nonfinite: dict[int, str] = {}

        def loss_of(hidden: torch.Tensor, head: Head) -> LossOutput:
            output = self._loss(hidden, head, teacher, microbatch)
            # Here, since only here the head is sure to be whole: under ZeRO 3 it is gathered for the loss alone.
            if not _is_finite(output, microbatch):
                nonfinite.update(find_nonfinite(output, hidden, head, teacher, microbatch, self._num_tokens))
            tops.update(
                top_tokens(
                    microbatch,
                    divergence=output.divergence,
                    hidden=hidden,
                    head=head,
                    teacher=teacher,
                    num_vocab=self._num_tokens,
                    temperature=self._temperature,
                )
            )
            return output

        fields = forward(
            input_ids=self._tensor(microbatch.input_ids),
            position_ids=self._tensor(microbatch.position_ids),
            predictor_index=self._tensor(microbatch.predictor_index),
            loss_of=loss_of,
        )
        return LossOutput.from_tuple(fields), tops, nonfinite

    def _loss(
        self, hidden: torch.Tensor, head: Head, teacher: TeacherRows | None, microbatch: Microbatch
    ) -> LossOutput:
        given = {
            "student_hidden": hidden,
            "student_head": head,
            "token_ids": self._tensor(microbatch.completion_ids),
            "token_weights": self._tensor(microbatch.token_weights),
            "num_vocab": self._num_tokens,
        }
        if teacher is None:
            target = TOKEN_TARGETS[self._target]
            return fused_token_loss(target=target, temperature=self._temperature, **given)  # type: ignore[arg-type]
        return fused_teacher_loss(
            teacher=teacher,
            sequence_ids=self._tensor(microbatch.sequence_ids),
            sampler_logprobs=self._tensor(microbatch.sampler_logprobs),
            settings=self._settings,
            **given,  # type: ignore[arg-type]
        )

    def _tensor(self, array: Any) -> torch.Tensor:
        return to_tensor(array).to(self._device)


def _is_finite(output: LossOutput, microbatch: Microbatch) -> bool:
    """True when loss, divergences and the sampler's logprobs are; all who follow wait for the loss anyway."""
    finite = output.loss.isfinite() & output.divergence.isfinite().all()
    return bool(finite) and bool(np.isfinite(microbatch.sampler_logprobs).all())


@torch.no_grad()
def check_partitioned_head(forward: Forward, network: PreTrainedModel, device: torch.device) -> None:
    """Checks the head as `models.network.check_head` does, on weights that ZeRO 3 has cut up; all ranks together.

    Raises:
        ModelError: the network does something to its logits that `Head` does not know.
    """
    tokens = torch.arange(PROBE_TOKENS, device=device)
    inputs = {"input_ids": tokens, "position_ids": tokens, "predictor_index": tokens}
    with plain_attention(network):
        (expected,) = forward(**inputs, loss_of=None)
        (logits,) = forward(**inputs, loss_of=lambda hidden, head: HeadOutput(head.logits(hidden, len(head.weight))))
    compare_head(network, logits, expected.float(), network.dtype)
