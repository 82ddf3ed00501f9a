"""The guards against engines and learners in memory; test_job.py sees them in a real run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.cluster.guards import ENGINE_TOLERANCE, EXPORT_TOLERANCE, check_engines, check_export, cut
from sdft_ray.config import ModelConfig, Precision
from sdft_ray.errors import GuardError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.export import UNVERIFIED_FILE

ROWS = (
    GuardRow(prompt_tokens=(1, 2, 3), completion_tokens=(4, 5)),
    GuardRow(prompt_tokens=(6,), completion_tokens=(7, 8, 9)),
)


class Settings:
    """The part of a run's settings that the guards read."""

    def __init__(self, engines: Precision = Precision.FLOAT32, learner: Precision = Precision.FLOAT32):
        self.model = ModelConfig(dtype=engines)
        self.learner = type("Learner", (), {"precision": learner})


class FakeStudent:
    """Finds token t as likely as exp(-t)."""

    def __init__(self, gap: float = 0.0):
        self.weight_version = 3
        self._gap = gap

    async def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        return [tuple(-float(token) for token in row.completion_tokens) for row in rows]

    async def export_gap(self, folder: Path, rows: Sequence[GuardRow]) -> float:
        return self._gap


class FakeEngines:
    """Each worker is off by `off` of its own on the last token of a completion."""

    def __init__(self, *off: float):
        self.loaded: list[tuple[int, bool]] = []
        self.longest = 0
        self._off = off
        self.present: list[set[int]] = []  # who answers, call by call; then all

    async def load_weights(self, version: int, *, published: bool = False) -> None:
        self.loaded.append((version, published))

    async def logprobs_of_all(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> dict[int, tuple[float, ...]]:
        assert self.loaded, "weights are compared after the load"
        self.longest = max(self.longest, len(prompt_tokens) + len(completion_tokens))
        right = [-float(token) for token in completion_tokens]
        present = self.present.pop(0) if self.present else range(len(self._off))
        return {rank: (*right[:-1], right[-1] + self._off[rank]) for rank in present}

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        return tuple(-float(token) for token in completion_tokens)


async def run_guard(engines: FakeEngines, settings: Any = None, max_model_len: int = 100) -> list[str]:
    said: list[str] = []
    settings = settings or Settings()
    await check_engines(engines, FakeStudent(), ROWS, cfg=settings, max_model_len=max_model_len, say=said.append)
    return said


async def test_engines_that_hold_what_they_were_given_are_one_line() -> None:
    engines = FakeEngines(0.0, 1e-5)
    (line,) = await run_guard(engines)
    assert engines.loaded == [(3, True)], "also where the workers hold that version from the model folder"
    assert "2 rollout engines" in line
    assert "up to 1.0e-05 nats, by 4.0e-06 on average" in line


async def test_of_workers_that_come_and_go_while_they_are_compared_those_count_that_have_answered_all() -> None:
    engines = FakeEngines(0.0, 1.0)
    engines.present = [{0, 1}, {0}]
    assert "1 rollout engine " in (await run_guard(engines))[0]
    engines.present = [{0, 1}, {1}]
    with pytest.raises(GuardError, match="rollout worker 1 was given"):
        await run_guard(engines)


async def test_where_every_engine_is_lost_meanwhile_the_newcomers_are_compared() -> None:
    engines = FakeEngines(0.0)
    engines.present = [{0}, set(), set(), {0}]
    assert "1 rollout engine " in (await run_guard(engines))[0]
    assert not engines.present


@pytest.mark.parametrize("off", [1.0, math.nan, math.inf])
async def test_an_engine_with_other_weights_ends_the_run_by_its_number(off: float) -> None:
    with pytest.raises(GuardError) as error:
        await run_guard(FakeEngines(0.0, off))
    message = str(error.value)
    assert "rollout worker 1 was given the student's weights 3" in message
    assert f"up to {off:.3g} nats" in message
    assert "method=sft" in message


async def test_a_small_gap_of_every_token_is_one_as_well() -> None:
    """Each token within the bound for the largest, all of them beyond that for the mean."""
    largest, mean = ENGINE_TOLERANCE[Precision.FLOAT32]
    engines = FakeEngines(0.9 * largest)
    assert 0.9 * largest * len(ROWS) / 5 > mean
    with pytest.raises(GuardError, match="on average"):
        await run_guard(engines)


@pytest.mark.parametrize("settings", [Settings(engines=Precision.BFLOAT16), Settings(learner=Precision.BFLOAT16)])
async def test_rounding_in_bf16_on_either_side_is_no_gap(settings: Settings) -> None:
    await run_guard(FakeEngines(0.1), settings)


async def test_rows_are_cut_to_what_an_engine_reads() -> None:
    engines = FakeEngines(0.0)
    await run_guard(engines, max_model_len=4)
    assert engines.longest == 3, "one more token is sampled"
    long = GuardRow(prompt_tokens=tuple(range(300)), completion_tokens=tuple(range(200)))
    assert [len(part) for part in (cut(long, 310).prompt_tokens, cut(long, 310).completion_tokens)] == [300, 10]
    assert [len(part) for part in (cut(long, 900).prompt_tokens, cut(long, 900).completion_tokens)] == [300, 64]


async def test_an_export_counts_once_it_computes_what_the_student_does(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / UNVERIFIED_FILE).touch()
    await check_export(FakeStudent(2e-7), tmp_path, ROWS, Precision.FLOAT32, said.append)
    assert said == ["checked        the exported folder computes the student's logits: 2e-07 of their range"]
    assert not (tmp_path / UNVERIFIED_FILE).exists()


@pytest.mark.parametrize("gap", [1.5, math.nan])
async def test_an_export_that_computes_something_else_stays_and_is_marked(tmp_path: Path, gap: float) -> None:
    (tmp_path / UNVERIFIED_FILE).touch()
    with pytest.raises(GuardError) as error:
        await check_export(FakeStudent(gap), tmp_path, ROWS, Precision.FLOAT32, print)
    for part in (str(tmp_path), f"{gap:.2g} of their range", f"{EXPORT_TOLERANCE[Precision.FLOAT32]:g}", "checkpoint"):
        assert part in str(error.value)
    assert (tmp_path / UNVERIFIED_FILE).exists()
