import pytest
import torch

from sdft_ray.config import Precision
from sdft_ray.teacher.payload import pack_logits
from sdft_ray.tensors import to_tensor


def test_float32_logits_come_back_exactly_and_without_the_padded_rows():
    logits = torch.randn(5, 12)
    payload = pack_logits(logits, 10, Precision.FLOAT32)
    assert payload.logits.shape == (5, 10)
    assert torch.equal(to_tensor(payload.logits), logits[:, :10])


def test_bfloat16_logits_travel_as_bit_patterns():
    logits = torch.randn(5, 12)
    payload = pack_logits(logits, 10, Precision.BFLOAT16)
    assert payload.logits.dtype == "uint16"
    assert torch.equal(to_tensor(payload.logits), logits[:, :10].bfloat16())


@pytest.mark.parametrize("num_tokens", [10, 12])
def test_a_payload_does_not_keep_the_logits_of_the_whole_batch_alive(num_tokens):
    batch = torch.randn(100, 12)
    payload = pack_logits(batch[3:8], num_tokens, Precision.FLOAT32)
    assert payload.logits.flags.c_contiguous
    assert to_tensor(payload.logits).untyped_storage().nbytes() == 5 * num_tokens * 4
    batch.zero_()
    assert payload.logits.any()
