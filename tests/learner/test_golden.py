"""The comparison with golden values tells what moved, and the stored values belong to the formulas."""

import copy

import pytest

from tests.learner import golden

BEFORE: golden.Steps = [
    {"divergence": {"sample 0": [1.0, 2.0], "sample 1": [3.0]}, "loss": 1.5, "grad_norm": 0.5},
    {"divergence": {"sample 0": [0.5], "sample 1": [0.25]}, "loss": 1.0, "grad_norm": 0.25},
]


def test_a_difference_names_quantity_amount_step_and_token_where_it_came_first() -> None:
    after = copy.deepcopy(BEFORE)
    after[0]["divergence"]["sample 0"][1] = 2.001
    after[1]["divergence"]["sample 1"][0] = 0.5
    after[1]["grad_norm"] = 0.2
    assert golden.differences("sft", BEFORE, after, relative=1e-6) == [
        "sft: divergence moved by +0.001 (+5.0e-04 of it) in step 1, sample 0, token 1, from 2 to 2.001; "
        "2 of its values moved",
        "sft: grad_norm moved by -0.05 (-2.0e-01 of it) in step 2, from 0.25 to 0.2; 1 of its values moved",
    ]


def test_rounding_is_no_difference_and_nan_is() -> None:
    after = copy.deepcopy(BEFORE)
    after[0]["loss"] *= 1 + 1e-7
    assert golden.differences("sft", BEFORE, after, relative=1e-6) == []
    after[0]["loss"] = float("nan")
    assert len(golden.differences("sft", BEFORE, after, relative=1e-6)) == 1


def test_a_token_more_or_less_is_refused() -> None:
    after = copy.deepcopy(BEFORE)
    del after[0]["divergence"]["sample 0"][1]
    with pytest.raises(ValueError, match="step 1, sample 0, token 1"):
        golden.differences("sft", BEFORE, after, relative=1e-6)


def test_every_case_has_a_value_for_every_token_of_its_formulas() -> None:
    stored = golden.read_golden()
    assert stored.keys() == golden.CASES.keys()
    for steps in stored.values():
        for step, values in enumerate(steps):
            lengths = [len(golden.rollout(step, index).completion_tokens) for index in range(golden.BATCH_SIZE)]
            assert [len(divergence) for divergence in values["divergence"].values()] == lengths


def test_formulas_give_the_numbers_they_gave_when_the_values_were_stored() -> None:
    """Otherwise weights or tokens have moved, and not what the learner makes of them."""
    assert golden.uniform("model", 3).tolist() == [-0.4118911027908325, 0.16199374198913574, 0.47462862730026245]
    assert golden.tokens("step 0", 4) == (5, 53, 34, 58)
