"""What a payload holds, made from the hidden states of one completion."""

import pytest
import torch

from sdft_ray.config import Payload, Precision, TeacherConfig
from sdft_ray.distill.distributions import Head
from sdft_ray.records import HiddenPayload, LogitsPayload, TopKPayload
from sdft_ray.teacher.payload import PayloadPacker
from sdft_ray.tensors import to_tensor

NUM_TOKENS, HIDDEN = 10, 4
TOKENS = [3, 0, 9, 9, 1]


@pytest.fixture
def head() -> Head:
    return Head(torch.randn(12, HIDDEN, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(len(TOKENS), HIDDEN, generator=torch.Generator().manual_seed(1))


def make_packer(head: Head, temperature: float = 1.0, **teacher: object) -> PayloadPacker:
    return PayloadPacker(TeacherConfig(**teacher), head, NUM_TOKENS, temperature)  # type: ignore[arg-type]


def test_hidden_states_come_back_exactly(head: Head, hidden: torch.Tensor) -> None:
    payload = make_packer(head, payload=Payload.HIDDEN).pack(hidden, TOKENS)
    assert isinstance(payload, HiddenPayload)
    assert torch.equal(to_tensor(payload.hidden), hidden)


def test_logits_come_back_exactly_and_without_the_padded_rows(head: Head, hidden: torch.Tensor) -> None:
    payload = make_packer(head, payload=Payload.LOGITS).pack(hidden, TOKENS)
    assert isinstance(payload, LogitsPayload)
    assert torch.equal(to_tensor(payload.logits), hidden @ head.weight[:NUM_TOKENS].T)


@pytest.mark.parametrize("kind", [Payload.HIDDEN, Payload.LOGITS])
def test_bfloat16_travels_as_bit_patterns(kind: Payload, head: Head, hidden: torch.Tensor) -> None:
    payload = make_packer(head, payload=kind, payload_precision=Precision.BFLOAT16).pack(hidden, TOKENS)
    array = payload.hidden if isinstance(payload, HiddenPayload) else payload.logits
    exact = hidden if kind is Payload.HIDDEN else hidden @ head.weight[:NUM_TOKENS].T
    assert array.dtype == "uint16"
    assert torch.equal(to_tensor(array), exact.bfloat16())


def test_the_most_likely_tokens_and_the_tail_hold_all_mass_at_the_sampling_temperature(
    head: Head, hidden: torch.Tensor
) -> None:
    payload = make_packer(head, temperature=0.5, payload=Payload.TOPK, top_k=3).pack(hidden, TOKENS)
    assert isinstance(payload, TopKPayload)
    logprobs = torch.log_softmax(hidden @ head.weight[:NUM_TOKENS].T / 0.5, dim=-1)
    values, ids = logprobs.topk(3)
    assert torch.equal(to_tensor(payload.ids).long(), ids)
    torch.testing.assert_close(to_tensor(payload.logprobs), values)
    mass = to_tensor(payload.logprobs).exp().sum(-1) + to_tensor(payload.tail_logprobs).exp()
    torch.testing.assert_close(mass, torch.ones(len(TOKENS)))
    torch.testing.assert_close(
        to_tensor(payload.token_logprobs), logprobs[torch.arange(len(TOKENS)), torch.tensor(TOKENS)]
    )


def test_more_candidates_than_tokens_are_all_tokens(head: Head, hidden: torch.Tensor) -> None:
    payload = make_packer(head, payload=Payload.TOPK, top_k=100).pack(hidden, TOKENS)
    assert isinstance(payload, TopKPayload)
    assert payload.ids.shape == (len(TOKENS), NUM_TOKENS)
    assert (to_tensor(payload.tail_logprobs) == -torch.inf).all()


@pytest.mark.parametrize("kind", list(Payload))
def test_a_payload_does_not_keep_the_hidden_states_of_the_whole_batch_alive(kind: Payload, head: Head) -> None:
    batch = torch.randn(100, HIDDEN)
    payload = make_packer(head, payload=kind).pack(batch[3 : 3 + len(TOKENS)], TOKENS)
    for name in payload.__dataclass_fields__:
        array = getattr(payload, name)
        before = array.copy()
        assert to_tensor(array).untyped_storage().nbytes() == array.nbytes
        batch.zero_()
        assert (array == before).all()
