"""Gradients with a place of their own: the same values, in the same memory in every step."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdft_ray.distill.fused_loss import fused_token_loss
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.learner.objective import Student
from sdft_ray.learner.persistent_grads import AccumulatingEmbedding, allocate_gradients
from sdft_ray.tensors import PAGE

PADDING = 3
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": PADDING,
}
TOKENS = torch.tensor([5, PADDING, 9, 5, 60, 8, 1, 5, 7, PADDING, 2, 4])


class Engine:
    """A student with an optimizer, without ZeRO."""

    def __init__(self, student: Student):
        self.module = student
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.1)

    def make_moments(self) -> None:
        """As `StudentEngine.allocate_gradients`."""
        self.optimizer.param_groups[0]["lr"] = 0.0
        self.optimizer.step()
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        self.zero_grad()

    def zero_grad(self) -> None:
        for param in self.module.parameters():
            param.grad = None

    def accumulate(self, num_completion: int) -> None:
        """Adds the gradient of one microbatch whose last `num_completion` tokens are trained on."""

        def loss_of(hidden: torch.Tensor, head: Any) -> Any:
            return fused_token_loss(
                student_hidden=hidden,
                student_head=head,
                token_ids=TOKENS[-num_completion:],
                token_weights=torch.full((num_completion,), 0.3),
                target="nll",
                temperature=1.0,
                num_vocab=61,
                chunk_rows=2,
            )

        positions = torch.arange(len(TOKENS))
        index = positions[-num_completion - 1 : -1]
        fields = self.module(input_ids=TOKENS, position_ids=positions, predictor_index=index, loss_of=loss_of)
        (LossOutput.from_tuple(fields).loss * 2.0).backward()

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name: param.grad for name, param in self.module.named_parameters()}


def make_pair(**settings: Any) -> SimpleNamespace:
    """The same student twice, one of them own."""
    torch.manual_seed(0)
    student = Student(LlamaForCausalLM(LlamaConfig(**SIZES | settings)))
    pair = SimpleNamespace(own=Engine(copy.deepcopy(student)), plain=Engine(student))
    pair.gradients = allocate_gradients(pair.own.module, pair.own.module.parameters(), pair.own.make_moments)
    return pair


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("num_completion", [3, 11])  # few enough for the gradient on the logits to be kept, or not
def test_gradients_are_those_of_autograd_in_every_step(tied: bool, checkpointing: bool, num_completion: int) -> None:
    pair = make_pair(tie_word_embeddings=tied)
    if checkpointing:
        pair.own.module.network.gradient_checkpointing_enable({"use_reentrant": False})
    for _ in range(2):
        for engine in (pair.own, pair.plain):
            engine.accumulate(num_completion)
            engine.accumulate(2)
        expected = pair.plain.gradients()
        assert expected.keys() == pair.own.gradients().keys()
        for name, own in pair.own.gradients().items():
            torch.testing.assert_close(own, expected[name], rtol=1e-5, atol=1e-7, msg=name)
        for engine in (pair.own, pair.plain):
            engine.zero_grad()


def test_memory_that_was_given_back_between_two_steps_holds_the_next_gradient() -> None:
    pair = make_pair()
    for _ in range(2):
        for engine in (pair.own, pair.plain):
            engine.accumulate(3)
        for gradient in pair.gradients:
            gradient.release()  # not in mid-step
        for name, expected in pair.plain.gradients().items():
            torch.testing.assert_close(pair.own.gradients()[name], expected, rtol=1e-5, atol=1e-7, msg=name)
        for engine in (pair.own, pair.plain):
            engine.zero_grad()
        for gradient in pair.gradients:
            gradient.release()
            assert not gradient._values.flatten()[PAGE:-PAGE].any(), "its pages are given back"


def test_gradients_stay_where_they_are() -> None:
    engine = make_pair().own
    gradients = []
    for _ in range(2):
        engine.accumulate(3)
        gradients.append({name: gradient.data_ptr() for name, gradient in engine.gradients().items()})
        engine.zero_grad()
    assert gradients[0] == gradients[1]


def test_moments_are_there_as_if_no_step_had_been_taken_and_weights_are_as_they_were() -> None:
    pair = make_pair()
    for own, other in zip(pair.own.module.parameters(), pair.plain.module.parameters(), strict=True):
        assert torch.equal(own, other)
        assert own.grad is None
    states = list(pair.own.optimizer.state.values())
    assert len(states) == len(list(pair.own.module.parameters()))
    assert not any(value.any() for state in states for value in state.values())


def test_an_embedding_of_another_kind_stays() -> None:
    class Scaled(torch.nn.Embedding):
        """As Gemma's."""

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return 3.0 * super().forward(input_ids)

    student = Student(LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **SIZES)))
    student.network.set_input_embeddings(Scaled(64, 32))
    allocate_gradients(student, student.parameters(), Engine(student).make_moments)
    assert type(student.network.get_input_embeddings()) is Scaled
    assert isinstance(make_pair().own.module.network.get_input_embeddings(), AccumulatingEmbedding)
