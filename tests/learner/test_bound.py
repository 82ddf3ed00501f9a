import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdft_ray.learner.bound import MatmulBound
from tests.models.test_network import SIZES


def bound_of(tied: bool, monkeypatch) -> MatmulBound:
    monkeypatch.setattr("sdft_ray.learner.bound.measure_matmul", lambda device, dtype: 1e9)
    network = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **SIZES))
    head = network.get_output_embeddings().weight
    shapes = tuple((name, tuple(value.shape)) for name, value in network.named_parameters())
    return MatmulBound(shapes, tuple(head.shape), torch.float32, torch.device("cpu"))


def test_every_token_is_multiplied_with_every_layer_and_completion_tokens_with_the_head(monkeypatch) -> None:
    """Attention has 4 matrices of 32 x 32 a layer, the gated layer 3; three products, two operations each."""
    seconds = bound_of(True, monkeypatch).seconds(num_tokens=10, head_rows=4)
    assert seconds * 1e9 == 6 * (10 * 2 * 7 * 32 * 32 + 4 * 50 * 32)


def test_an_untied_embedding_is_looked_up_and_not_multiplied(monkeypatch) -> None:
    assert bound_of(False, monkeypatch).seconds(10, 4) == bound_of(True, monkeypatch).seconds(10, 4)


def test_a_measured_rate_is_a_positive_number_of_operations() -> None:
    bound = MatmulBound((), (4, 4), torch.float32, torch.device("cpu"))
    assert 0 < bound.seconds(0, 1) < 1e-3
