"""Alarms on made-up runs: collapses are caught with the step they began at, noise and slow drift are not."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import AlarmsConfig
from sdft_ray.errors import ConfigError
from sdft_ray.tracking.alarm_rules import (
    COUNTED_SHARE,
    DIVERGENCE,
    ENTROPY,
    GRAD_NORM,
    LENGTH,
    LOSS,
    MISMATCH,
    TRUNCATED,
)
from sdft_ray.tracking.alarms import STALENESS, Alarms
from sdft_ray.tracking.metrics import check_declared

HEALTHY = {ENTROPY: 2.0, LENGTH: 100.0, TRUNCATED: 0.1, DIVERGENCE: 0.4}


def run(**series: Sequence[float]) -> list[dict[str, float]]:
    """The steps of a run that is healthy but for what is given: entropy, length, truncated, divergence."""
    keys = {"entropy": ENTROPY, "length": LENGTH, "truncated": TRUNCATED, "divergence": DIVERGENCE}
    num_steps = max(map(len, series.values()), default=100)
    return [HEALTHY | {keys[name]: values[index] for name, values in series.items()} for index in range(num_steps)]


def raised(folder: Path, steps: Iterable[dict[str, Any]], cfg: AlarmsConfig | None = None) -> list[dict[str, Any]]:
    """The alarms of a run whose first step is 1."""
    said: list[str] = []
    alarms = Alarms(cfg or AlarmsConfig(), run_dir=folder, say=said.append)
    for step, metrics in enumerate(steps, start=1):
        check_declared(alarms.watch(step, metrics))
    records = read(folder)
    assert [record["text"] for record in records] == said
    return records


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


def noisy(values: Iterable[float], share: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [value * max(0.0, chance.gauss(1.0, share)) for value in values]


COLLAPSES = {
    "entropy": {"entropy": [2.0] * 39 + [0.05] * 30},
    "length": {"length": [100.0] * 39 + [3.0] * 30},
    "runaway": {"length": [100.0] * 39 + [400.0] * 30, "truncated": [0.1] * 39 + [0.9] * 30},
    "divergence": {"divergence": [0.4] * 39 + [3.0] * 30},
}


@pytest.mark.parametrize("rule", COLLAPSES)
@pytest.mark.parametrize("seed", range(5))
def test_a_collapse_is_caught_once_with_the_step_it_began_at(tmp_path: Path, rule: str, seed: int) -> None:
    series = {name: noisy(values, 0.1, seed) for name, values in COLLAPSES[rule].items()}
    (alarm,) = raised(tmp_path, run(**series))
    assert (alarm["rule"], alarm["began"]) == (rule, 40)
    assert 40 + AlarmsConfig().patience - 1 <= alarm["step"] <= 60
    assert f"alarm at step {alarm['step']}: " in alarm["text"] and "it began at step 40 " in alarm["text"]


def test_of_a_gradual_collapse_the_begin_is_where_the_values_passed_the_bound(tmp_path: Path) -> None:
    entropy = [2.0] * 20 + [2.0 * 0.9**step for step in range(1, 60)]
    (alarm,) = raised(tmp_path, run(entropy=entropy))
    first = next(step for step, value in enumerate(entropy, start=1) if value < 0.2 * 2.0)
    assert alarm["began"] == first


@pytest.mark.parametrize("seed", range(20))
def test_noise_raises_nothing(tmp_path: Path, seed: int) -> None:
    steps = run(
        entropy=noisy([2.0] * 400, 0.4, seed),
        length=noisy([100.0] * 400, 0.4, seed + 100),
        truncated=noisy([0.3] * 400, 0.5, seed + 200),
        divergence=noisy([0.4] * 400, 0.4, seed + 300),
    )
    assert raised(tmp_path, steps) == []


def test_slow_drift_within_the_bounds_raises_nothing(tmp_path: Path) -> None:
    shares = [1 - 0.6 * step / 400 for step in range(400)]
    steps = run(
        entropy=[2.0 * share for share in shares],
        length=[100.0 * share for share in shares],
        divergence=[0.4 * (2 - share) for share in shares],
    )
    assert raised(tmp_path, steps) == []


def test_a_few_bad_steps_raise_nothing(tmp_path: Path) -> None:
    assert raised(tmp_path, run(entropy=[2.0] * 30 + [0.0] * 4 + [2.0] * 30)) == []


def test_long_completions_that_end_by_themselves_do_not_run_away(tmp_path: Path) -> None:
    assert raised(tmp_path, run(length=[100.0] * 20 + [400.0] * 40)) == []


def test_completions_cut_from_the_first_step_on_do_not_run_away(tmp_path: Path) -> None:
    assert raised(tmp_path, run(length=[100.0] * 60, truncated=[0.9] * 60)) == []


def test_a_divergence_near_zero_may_double(tmp_path: Path) -> None:
    """A teacher without a demonstration is the student: all that is left is rounding."""
    assert raised(tmp_path, run(divergence=[0.0] * 20 + [1e-6] * 40)) == []
    assert raised(tmp_path, run(divergence=[0.01] * 20 + [0.05] * 40)) == []


def test_a_standing_alarm_is_counted_and_one_that_comes_back_is_raised_again(tmp_path: Path) -> None:
    alarms = Alarms(AlarmsConfig(), run_dir=tmp_path, say=lambda line: None)
    entropy = [2.0] * 20 + [0.01] * 30 + [2.0] * 30 + [0.01] * 30
    standing = [alarms.watch(step, metrics) for step, metrics in enumerate(run(entropy=entropy), start=1)]
    assert [record["began"] for record in read(tmp_path)] == [21, 81]
    assert [standing[step - 1]["loop/alarms"] for step in (20, 50, 80, 110)] == [0, 1, 0, 1]


def test_steps_that_measured_nothing_are_passed_over(tmp_path: Path) -> None:
    steps = run(entropy=[2.0] * 60)
    for step in range(20, 50):
        steps[step] |= [{ENTROPY: math.nan}, {ENTROPY: 0.0, "learner/counted_tokens": 0.0}, {DIVERGENCE: math.inf}][
            step % 3
        ]
    assert raised(tmp_path, steps) == []


def test_a_resumed_run_raises_what_the_whole_one_does_and_repeats_nothing(tmp_path: Path) -> None:
    steps = run(entropy=[2.0] * 20 + [0.01] * 50, length=[100.0] * 44 + [1.0] * 26)
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir(), half.mkdir()
    expected = raised(whole, steps)
    assert [alarm["rule"] for alarm in expected] == ["entropy", "length"]
    raised(half, steps[:55])
    history = [{"step": step, "time_s": 0.0} | metrics for step, metrics in enumerate(steps[:48], start=1)]
    said: list[str] = []
    resumed = Alarms(AlarmsConfig(), run_dir=half, say=said.append, history=history, resumed_step=48)
    for step, metrics in enumerate(steps[48:], start=49):
        resumed.watch(step, metrics)
    assert read(half) == expected
    assert said == [alarm["text"] for alarm in expected if alarm["step"] > 48]


def test_lines_of_evaluations_and_nulls_in_the_history_are_passed_over(tmp_path: Path) -> None:
    history = [{"step": 0, "evaluation/taught_accuracy": 0.5}, {"step": 1, **HEALTHY, ENTROPY: None}]
    alarms = Alarms(AlarmsConfig(reference_steps=1), run_dir=tmp_path, say=lambda line: None, history=history)
    assert alarms.watch(2, HEALTHY) == {"loop/alarms": 0.0}


def test_a_stage_on_other_data_has_a_reference_of_its_own(tmp_path: Path) -> None:
    short = HEALTHY | {LENGTH: 4.0, ENTROPY: 0.1}
    whole = [{"step": step, "stage": "long", **HEALTHY} for step in range(1, 31)]
    whole += [{"step": step, "stage": "short", **short} for step in range(31, 61)]
    assert len(raised(tmp_path, [{key: line[key] for key in HEALTHY} for line in whole])) == 2
    said: list[str] = []
    alarms = Alarms(AlarmsConfig(), run_dir=tmp_path, say=said.append)
    for line in whole:
        alarms.begin_stage(line["stage"])
        alarms.watch(line["step"], line)
    resumed = Alarms(AlarmsConfig(), run_dir=tmp_path, say=said.append, history=whole[:45])
    resumed.begin_stage("short")
    for line in whole[45:]:
        resumed.watch(line["step"], line)
    assert said == []


def test_a_patience_of_zero_turns_alarms_off(tmp_path: Path) -> None:
    assert raised(tmp_path, run(**COLLAPSES["entropy"]), AlarmsConfig(patience=0)) == []


def test_a_memory_that_never_hears_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.alarms\.memory=1\.0"):
        AlarmsConfig(memory=1.0)


def test_a_sampler_with_other_weights_raises_an_alarm_only_where_it_sampled_on_policy(tmp_path: Path) -> None:
    steps = [HEALTHY | {MISMATCH: 1e-5, STALENESS: 0.0}] * 20 + [HEALTHY | {MISMATCH: 5.6, STALENESS: 0.0}] * 20
    (alarm,) = raised(tmp_path, steps)
    assert (alarm["rule"], alarm["began"]) == ("mismatch", 21)
    assert not raised(tmp_path, [step | {STALENESS: 1.0} for step in steps]), "older weights differ"
    assert not raised(tmp_path, [HEALTHY] * 40), "nothing was sampled"
    assert not raised(tmp_path, steps, AlarmsConfig(mismatch_nats=10.0))


def test_steps_in_a_row_that_train_on_nothing_are_told_once_until_one_trains(tmp_path: Path) -> None:
    shares = [0.0] * 7 + [0.5] + [0.0] * 4 + [0.5] + [0.005] * 5
    steps = [step | {COUNTED_SHARE: value} for step, value in zip(run(), shares, strict=False)]
    alarms = raised(tmp_path, steps, AlarmsConfig(patience=5))
    assert [(alarm["rule"], alarm["began"], alarm["step"]) for alarm in alarms] == [
        ("uncounted", 1, 5),
        ("uncounted", 14, 18),
    ]


def test_a_gradient_that_has_vanished_for_several_steps_is_told_with_the_remedy(tmp_path: Path) -> None:
    norms = [0.3] * 12 + [0.0] * 4 + [0.3] + [1e-9] * 6
    (alarm,) = raised(tmp_path, [step | {GRAD_NORM: value} for step, value in zip(run(), norms, strict=False)])
    assert (alarm["rule"], alarm["began"], alarm["step"]) == ("vanished", 18, 22)
    assert "loss.skip_first_tokens" in alarm["text"]


@pytest.mark.parametrize(("metric", "rule"), [(LOSS, "loss_spike"), (DIVERGENCE, "divergence_spike")])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_leap_of_one_step_is_told_at_that_step(tmp_path: Path, metric: str, rule: str, sign: int) -> None:
    values = noisy([0.4] * 40, 0.3, seed=1)
    values[20] = 6.0 * sign
    alarms = raised(tmp_path, [step | {metric: value} for step, value in zip(run(), values, strict=False)])
    (alarm,) = (alarm for alarm in alarms if alarm["rule"] == rule)
    assert (alarm["began"], alarm["step"]) == (21, 21)
    assert "learner.learning_rate" in alarm["text"]


def test_no_leap_is_seen_before_there_is_a_mean_nor_where_the_value_stays_small(tmp_path: Path) -> None:
    early = [HEALTHY | {LOSS: value} for value in [0.1] * 5 + [9.0] + [0.1] * 20]
    small = [HEALTHY | {LOSS: value} for value in [0.001] * 20 + [0.5] + [0.001] * 20]
    assert raised(tmp_path, early) == raised(tmp_path, small) == []


def test_only_where_it_is_told_to_an_alarm_ends_the_run(tmp_path: Path) -> None:
    steps = [HEALTHY | {GRAD_NORM: 0.0}] * 7 + [HEALTHY | {COUNTED_SHARE: 0.0}] * 7
    for stop in (False, True):
        alarms = Alarms(AlarmsConfig(stop=stop), run_dir=tmp_path, say=lambda line: None)
        reasons = []
        for step, metrics in enumerate(steps, start=1):
            alarms.watch(step, metrics)
            reasons.append(alarms.reason_to_stop)
        assert not any(reasons[:4])
        assert all("at step 5: the gradient has vanished" in reason for reason in reasons[4:]) is stop
