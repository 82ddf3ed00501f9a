"""Every family of families.py: what the check of the packing decides, and that what will run is each sequence alone."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from sdft_ray.errors import ModelError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.objective import Student
from sdft_ray.models.lean_layers import make_lean
from sdft_ray.models.network import check_head, completion_hidden, configured_noise, train_as_sampled
from sdft_ray.models.packing import PackedSequences, Packing, pack_sequences
from sdft_ray.models.packing_check import PackingVerdict, check_packing
from tests.models.families import FAMILIES, PAGE, SIZES, Family, page

MIN_FAMILIES = 50
LONGEST = 64  # tokens of the longest sequence a run would have
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 5e-5  # rounding came to 2.1e-5 where two threads add up

SEQUENCES = [  # of several lengths, with a common beginning, and longer than every window and chunk
    ((11, 12, 13, 14, 1, 2, 3, 20, 21, 22), (4, 5, 33, 31)),
    ((11, 12, 13, 14, 6), (7, 8, 9, 44)),
    ((11, 12, 13, 14, 1, 2, 50, 51), (10, 52)),
]
ROWS = [GuardRow(prompt_tokens=prompt, completion_tokens=completion) for prompt, completion in SEQUENCES]
WEIGHTS = torch.randn((10, 64), generator=torch.Generator().manual_seed(1))  # of the loss: [T, H]

BY_NAME = {family.name: family for family in FAMILIES}
families = pytest.mark.parametrize("family", FAMILIES, ids=BY_NAME)
runnable = pytest.mark.parametrize("family", [each for each in FAMILIES if each.packing], ids=lambda each: each.name)


def forward(network: PreTrainedModel, pack: PackedSequences) -> torch.Tensor:
    arrays = (pack.input_ids, pack.position_ids, pack.predictor_index)
    return completion_hidden(network, *(torch.from_numpy(array) for array in arrays))


def start(network: PreTrainedModel, attention: str = "packed") -> PackingVerdict:
    """What the learner does to a network at its start."""
    make_lean(network)
    check_head(network.eval())
    return check_packing(
        network,
        ROWS,
        lambda pack: forward(network, pack),
        attention=attention,
        enter_mode=lambda: train_as_sampled(network),
        longest=LONGEST,
    )


def as_decided(network: PreTrainedModel, packing: Packing) -> torch.Tensor:
    """The hidden states [T, H] at completion positions, laid out as the check has decided."""
    if packing is Packing.SINGLE:
        return torch.cat([forward(network, pack_sequences([sequence])) for sequence in SEQUENCES])
    return forward(network, pack_sequences(SEQUENCES, share_prefix=packing is Packing.SHARED_PREFIX))


def one_by_one(network: PreTrainedModel) -> torch.Tensor:
    """The hidden states [T, H] at completion positions by transformers alone: no position, no packing, no cache."""
    results = []
    decoder = network.get_decoder()
    decoder = network.model if decoder is network else decoder
    for prompt, completion in SEQUENCES:
        ids = torch.tensor([[*prompt, *completion[:-1]]])
        results.append(decoder(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :])
    return torch.cat(results)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_there_are_fifty_families_and_each_once() -> None:
    assert len(BY_NAME) == len(FAMILIES) >= MIN_FAMILIES


@families
def test_the_check_decides_as_the_page_says(family: Family) -> None:
    network = family.network("packed")
    if family.packing is None:
        with pytest.raises(ModelError, match="set model.attention=sdpa"):
            start(network)
        return
    verdict = start(network)
    assert (verdict.packing, verdict.attention) == (family.packing, family.attention), verdict.rejected


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@runnable
def test_training_computes_each_sequence_as_if_it_were_alone(family: Family, checkpointing: bool) -> None:
    network, alone = family.network("packed"), family.network("eager").eval()
    if checkpointing:
        if not network.supports_gradient_checkpointing:
            pytest.skip("the family cannot recompute its activations")
        network.gradient_checkpointing_enable({"use_reentrant": False})
    packing = start(network).packing

    found, expected = as_decided(network, packing), one_by_one(alone)
    assert relative(found, expected) < TOLERANCE
    (found * WEIGHTS).sum().backward()
    (expected * WEIGHTS).sum().backward()
    gradients = {name: parameter.grad for name, parameter in alone.named_parameters() if parameter.grad is not None}
    mine = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert mine.keys() == gradients.keys()
    # Some gradients are sums that cancel, a key's bias for one: their rounding is that of what they are the sums of.
    least = 0.1 * np.median([gradient.norm().item() for gradient in gradients.values()])
    wrong = {
        name: error
        for name, gradient in gradients.items()
        if not (error := (mine[name] - gradient).norm().item() / max(gradient.norm().item(), least))
        < GRADIENT_TOLERANCE
    }
    assert not wrong


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("mistral", "sliding_window", 64),
        ("qwen2", "sliding_window", 64),
        ("gemma2", "sliding_window", 64),
        ("gemma2", "attn_logit_softcapping", None),
        ("vaultgemma", "attn_logit_softcapping", None),
        ("gemma3_text", "sliding_window", 64),
        ("gpt_oss", "sliding_window", 64),
        ("gpt_neo", "window_size", 64),
        ("llama4_text", "attention_chunk_size", 64),
        ("recurrent_gemma", "attention_window_size", 64),
    ],
)
def test_what_is_special_about_a_family_acts_on_these_rows(name: str, setting: str, value: int | None) -> None:
    family = BY_NAME[name]
    without = Family(name, family.settings | {setting: value})
    with torch.no_grad():
        special, plain = (one_by_one(each.network("eager").eval()) for each in (family, without))
    assert relative(plain, special) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "name", ["llama", "starcoder2", "granite", "gpt2", "phimoe", "mixtral", "seed_oss", "opt", "bloom"]
)
def test_the_noise_of_a_configuration_would_act_while_training(name: str) -> None:
    network = BY_NAME[name].network("eager")
    assert configured_noise(network)
    with torch.no_grad():
        expected = one_by_one(network.eval())
        assert relative(one_by_one(network.train()), expected) > 100 * TOLERANCE
        train_as_sampled(network)
        assert torch.equal(one_by_one(network), expected)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rope_that_depends_on_the_longest_sequence_of_a_pack_is_found_by_a_row_of_that_length(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    factors = {"long_factor": [4.0] * 8, "short_factor": [1.0] * 8} if kind == "longrope" else {}
    config = LlamaConfig(**SIZES | {"max_position_embeddings": 32 if kind == "dynamic" else 128})
    config.rope_parameters = rope | factors
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()
    decide = partial(
        check_packing,
        network,
        ROWS,
        partial(forward, network),
        attention="packed",
        enter_mode=lambda: train_as_sampled(network),
    )
    assert decide(longest=24).packing is Packing.SHARED_PREFIX
    assert decide(longest=100).packing is Packing.SINGLE


def test_ranks_decide_alike_also_where_only_another_one_cannot_compute_a_packing() -> None:
    network = BY_NAME["llama"].network("packed")
    others = iter([float("inf"), 0.0])  # the largest differences of the first two candidates
    verdict = check_packing(
        network,
        ROWS,
        partial(forward, network),
        attention="packed",
        enter_mode=lambda: train_as_sampled(network),
        longest=LONGEST,
        agree=lambda own: max(own, next(others)),
    )
    assert verdict.packing is Packing.END_TO_END


def test_a_token_whose_hidden_state_is_zero_is_no_difference() -> None:
    network = BY_NAME["llama"].network("packed")
    first = SEQUENCES[0][0][0]
    with torch.no_grad():
        network.get_input_embeddings().weight[first] = 0.0
        hidden = network.get_decoder()(input_ids=torch.tensor([[first]]), use_cache=False).last_hidden_state
    assert not hidden.any()
    assert start(network).packing is Packing.SHARED_PREFIX


def test_dropout_that_is_kept_is_whole_again_after_the_check() -> None:
    network = BY_NAME["opt"].network("packed")
    network.gradient_checkpointing_enable({"use_reentrant": False})
    student = Student(network, dropout=True)

    def gap() -> float:
        student.train()
        results = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            results.append(forward(network, pack_sequences(SEQUENCES)).detach())
        return relative(*results)

    before = gap()
    start(network)
    assert gap() == pytest.approx(before, rel=0.01)


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == page(), "python -m tests.models.families writes it"
