import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sdft_ray.report.runs import read_runs
from tests.claims.arms import ARMS
from tests.claims.claims import CLAIMS, NEW, Claim, Verdict, When, examine
from tests.claims.measured import BASE_KL, Measured
from tests.claims.page import JSON, PICTURE
from tests.claims.picture import draw
from tests.report.folders import settings_of, summary_of, write_run

CLAIM = Claim(name="learns", text="One learns more.", paper="", better="one", worse="other", asked=NEW)
NAMES = [f"question-{number}" for number in range(20)]


def test_every_claim_compares_arms_that_there_are_and_has_a_name_of_its_own() -> None:
    names = {arm.name for arm in ARMS}
    assert {claim.better for claim in CLAIMS} | {claim.worse for claim in CLAIMS} - {""} <= names
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (18, 4, Verdict.CONFIRMED),
        (4, 18, Verdict.NOT_SEEN),
        (10, 9, Verdict.UNDECIDED),
        (10, 10, Verdict.UNDECIDED),
    ],
)
def test_a_verdict_takes_the_whole_interval(one: int, other: int, verdict: Verdict, tmp_path: Path) -> None:
    arms = {"one": _arm(tmp_path / "one", [_right(one)]), "other": _arm(tmp_path / "other", [_right(other)])}
    finding = examine(CLAIM, arms)
    assert finding is not None
    assert finding.verdict is verdict
    assert finding.difference.mean == pytest.approx((one - other) / 20)
    assert finding.difference.num_values == 20


def test_seeds_are_averaged_before_questions_are_compared(tmp_path: Path) -> None:
    arms = {
        "one": _arm(tmp_path / "one", [_right(20), _right(0)]),
        "other": _arm(tmp_path / "other", [_right(10), _right(10)]),
    }
    finding = examine(CLAIM, arms)
    assert finding is not None
    assert finding.difference.num_values == 20, "not 40: a second run asks the same questions"
    assert finding.seeds == {"one": (1.0, 0.0), "other": (0.5, 0.5)}
    assert finding.arms["one"].mean == 0.5


def test_a_change_is_that_of_one_arm_and_may_be_small(tmp_path: Path) -> None:
    change = replace(CLAIM, worse="", when=When.CHANGE, at_least=-0.05)
    same = {"one": _arm(tmp_path / "same", [_right(12)], before=_right(12))}
    worse = {"one": _arm(tmp_path / "worse", [_right(4)], before=_right(12))}
    found, lost = examine(change, same), examine(change, worse)
    assert found is not None and lost is not None
    assert (found.difference.mean, found.verdict) == (0, Verdict.CONFIRMED)
    assert (lost.difference.mean, lost.verdict) == (pytest.approx(-0.4), Verdict.NOT_SEEN)


def test_what_is_kept_is_counted_from_the_end_of_the_first_stage(tmp_path: Path) -> None:
    kept = replace(CLAIM, when=When.KEPT)
    arms = {
        "one": _arm(tmp_path / "one", [_right(15)], between=_right(16)),
        "other": _arm(tmp_path / "other", [_right(2)], between=_right(18)),
    }
    finding = examine(kept, arms)
    assert finding is not None
    assert {name: value.mean for name, value in finding.arms.items()} == pytest.approx({"one": -0.05, "other": -0.8})
    assert finding.verdict is Verdict.CONFIRMED


def test_a_metric_of_whole_runs_needs_two_seeds_and_less_of_it_is_better(tmp_path: Path) -> None:
    claim = replace(CLAIM, metric=BASE_KL)
    arms = {
        "one": _arm(tmp_path / "one", [_right(1), _right(2)], base_kl=0.3),
        "other": _arm(tmp_path / "other", [_right(1), _right(2)], base_kl=1.3),
    }
    finding = examine(claim, arms)
    assert finding is not None
    assert finding.difference.mean == pytest.approx(1.0)
    assert finding.verdict is Verdict.CONFIRMED
    alone = examine(claim, {name: Measured(arm.runs[:1]) for name, arm in arms.items()})
    assert alone is not None and alone.verdict is Verdict.UNDECIDED


def test_a_claim_waits_for_its_arms(tmp_path: Path) -> None:
    assert examine(CLAIM, {"one": _arm(tmp_path / "one", [_right(3)])}) is None


def test_the_picture_is_that_of_the_kept_figures() -> None:
    drawn = draw(json.loads(JSON.read_text()))
    assert PICTURE.read_text() == drawn
    for shown in ("SDFT, forward KL", "SFT", "51.6", "22.5"):
        assert shown in drawn


def _right(count: int) -> dict[str, bool]:
    return {name: number < count for number, name in enumerate(NAMES)}


def _arm(
    folder: Path,
    ends: list[dict[str, bool]],
    *,
    before: Mapping[str, bool] | None = None,
    between: Mapping[str, bool] | None = None,
    base_kl: float = 0.0,
) -> Measured:
    """An arm with a run of four steps for each seed; its first stage ends in the middle."""
    folders = []
    for seed, end in enumerate(ends):
        lines = [
            {"step": step, "stage": stage, "evaluation/taught_accuracy": 0.5, BASE_KL: base_kl}
            for step, stage in ((0, "first"), (2, "first"), (4, "second"))
        ]
        path = write_run(folder / f"seed-{seed}", settings_of("sdft", seed), lines, summary=summary_of(4))
        records = [
            {"step": step, "set": "taught", "example_id": name, "right": right}
            for step, rights in ((0, before or {}), (2, between or {}), (4, end))
            for name, right in rights.items()
        ]
        (path / "answers.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        folders.append(str(path))
    return Measured(read_runs(folders))
