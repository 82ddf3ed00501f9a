import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdft_ray.learner.roofline import matmul_seconds, measure_matmul
from sdft_ray.records import MatmulSeconds
from tests.models.test_network import SIZES


def seconds_of(tied: bool) -> MatmulSeconds:
    network = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **SIZES))
    shapes = tuple((name, tuple(value.shape)) for name, value in network.named_parameters())
    return matmul_seconds(shapes, tuple(network.get_output_embeddings().weight.shape), flops_per_s=1e9)


def test_every_token_is_multiplied_with_every_layer_and_completion_tokens_with_the_head() -> None:
    """Attention has 4 matrices of 32 x 32 a layer, the gated layer 3; three products, two operations each."""
    seconds = seconds_of(tied=True)
    assert round(seconds.per_token * 1e9) == 6 * 2 * 7 * 32 * 32
    assert round(seconds.per_head_row * 1e9) == 6 * 50 * 32


def test_an_untied_embedding_is_looked_up_and_not_multiplied() -> None:
    assert seconds_of(tied=False) == seconds_of(tied=True)


def test_a_measured_rate_is_a_positive_number_of_operations() -> None:
    assert 1e6 < measure_matmul(torch.device("cpu"), torch.float32) < 1e15


def test_measuring_leaves_the_random_numbers_of_training_alone() -> None:
    before = torch.get_rng_state()
    measure_matmul(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
