"""Token maps: which samples, which shade, and the same in words."""

import math
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.report.arms import group_runs
from sdft_ray.report.runs import read_runs
from sdft_ray.report.tokens import token_maps
from tests.report.folders import sample_line, settings_of, write_run


def test_the_first_and_last_sample_of_one_example_are_shown(tmp_path: Path) -> None:
    samples = [sample_line(step, ["a", "b"], [float(step), 0.0], example=f"example{step % 2}") for step in (1, 2, 3, 4)]
    write_run(tmp_path / "run", settings_of("sdft", 0), [], samples=samples)
    maps, top = token_maps(group_runs(read_runs([str(tmp_path / "run")])))
    assert [(one.step, one.example_id) for one in maps] == [(1, "example1"), (3, "example1")]
    assert top >= 1.0
    assert maps[0].tokens[0].shade < maps[1].tokens[0].shade <= 100
    assert maps[0].tokens[1].shade == 0


def test_the_list_holds_the_largest_first_with_what_stands_before(tmp_path: Path) -> None:
    samples = [sample_line(1, ["The", " cap", "\n", " is"], [0.1, 2.0, 3.0, math.nan])]
    write_run(tmp_path / "run", settings_of("sdft", 0), [], samples=samples)
    maps, _ = token_maps(group_runs(read_runs([str(tmp_path / "run")])))
    listed = [[cell.text for cell in row] for row in maps[0].listed.rows]
    assert listed[0] == ["\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "The cap", "3", "3.000"]
    assert len(listed) == 3


def test_samples_without_a_divergence_are_passed_over(tmp_path: Path) -> None:
    samples = [sample_line(1, ["a"], []), sample_line(2, ["a", "b"], [0.5, 1.0]), sample_line(3, ["c"], [])]
    write_run(tmp_path / "some", settings_of("sdft", 0), [], samples=samples)
    write_run(tmp_path / "none", settings_of("cpt", 0), [], samples=[sample_line(1, ["a"], []), sample_line(2, [], [])])
    maps, top = token_maps(group_runs(read_runs([str(tmp_path / name) for name in ("some", "none")])))
    assert [(one.arm.label, one.step) for one in maps] == [("sdft", 2)]
    assert top >= 1.0


def test_a_sample_whose_divergences_are_all_unknown_has_no_shade(tmp_path: Path) -> None:
    samples = [sample_line(1, ["a"], [0.5]), sample_line(2, ["b"], [math.nan])]
    write_run(tmp_path / "run", settings_of("sdft", 0), [], samples=samples)
    maps, _ = token_maps(group_runs(read_runs([str(tmp_path / "run")])))
    assert [(one.mean, one.tokens[0].shade, len(one.listed.rows)) for one in maps][1] == ("\N{EN DASH}", 0, 0)


@pytest.mark.parametrize("recorded", [[], [{"position": 0, "token": "a", "divergence": 0.5}]], ids=["none", "one"])
def test_recorded_disagreements_make_no_difference(tmp_path: Path, recorded: list[dict[str, Any]]) -> None:
    sample = sample_line(1, ["a", "b"], [0.5, 0.1]) | {"disagreements": recorded}
    write_run(tmp_path / "run", settings_of("sdft", 0), [], samples=[sample])
    maps, _ = token_maps(group_runs(read_runs([str(tmp_path / "run")])))
    assert [token.text for token in maps[0].tokens] == ["a", "b"]
    assert [row[0].text for row in maps[0].listed.rows] == ["a", "b"]


def test_without_samples_there_is_no_map(tmp_path: Path) -> None:
    write_run(tmp_path / "run", settings_of("sdft", 0), [])
    assert token_maps(group_runs(read_runs([str(tmp_path / "run")]))) == ((), 0.0)
