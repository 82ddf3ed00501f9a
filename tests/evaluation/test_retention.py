"""The estimates of both divergences by enumeration, and what becomes of the base's completions."""

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from sdft_ray.errors import CheckpointError
from sdft_ray.evaluation.retention import MAX_NEW_TOKENS, GeneralPrompt, Retention, divergences
from sdft_ray.tracking.metrics import check_declared

BASE = (0.5, 0.3, 0.15, 0.05)
STUDENT = (0.1, 0.2, 0.3, 0.4)
PROMPTS = [GeneralPrompt("a", (9, 1)), GeneralPrompt("b", (9, 2))]


def kl(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * math.log(one / other) for one, other in zip(left, right, strict=True))


def token_terms(base: float, student: float) -> tuple[float, float]:
    return divergences([(math.log(base), math.log(student))])


@pytest.mark.parametrize("student", [STUDENT, BASE, (0.97, 0.01, 0.01, 0.01), (0.4999, 0.3001, 0.15, 0.05)])
def test_the_expectation_over_the_bases_tokens_is_the_divergence_in_both_directions(student: Sequence[float]) -> None:
    terms = [token_terms(*pair) for pair in zip(BASE, student, strict=True)]
    base_student = sum(weight * forward for weight, (forward, _) in zip(BASE, terms, strict=True))
    student_base = sum(weight * reverse for weight, (_, reverse) in zip(BASE, terms, strict=True))
    assert base_student == pytest.approx(kl(BASE, student), abs=1e-12)
    assert student_base == pytest.approx(kl(student, BASE), abs=1e-12)


@pytest.mark.parametrize("log_ratio", [-30.0, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1.0, 30.0])
def test_no_token_counts_below_zero_and_only_an_unchanged_one_counts_nothing(log_ratio: float) -> None:
    forward, reverse = divergences([(-31.0, -31.0 + log_ratio)])
    assert forward >= 0 and reverse >= 0
    if abs(log_ratio) >= 1e-3:
        assert forward > 0 and reverse > 0
    if log_ratio == 0:
        assert forward == reverse == 0


def test_near_one_the_estimates_keep_their_digits() -> None:
    """r - 1 - log r is x^2 / 2 to first order, which plain subtraction would lose to rounding."""
    forward, reverse = divergences([(-3.0, -3.0 + 1e-6)])
    assert forward == pytest.approx(5e-13, rel=1e-3)
    assert reverse == pytest.approx(5e-13, rel=1e-3)


def test_a_token_the_student_cannot_write_any_more_is_infinitely_far_one_way_and_finite_the_other() -> None:
    forward, reverse = divergences([(-1.0, -math.inf)])
    assert forward == math.inf
    assert reverse == 1.0


def test_the_mean_is_over_all_tokens() -> None:
    first, second = token_terms(0.5, 0.1), token_terms(0.2, 0.4)
    both = divergences([(math.log(0.5), math.log(0.1)), (math.log(0.2), math.log(0.4))])
    assert both == (pytest.approx((first[0] + second[0]) / 2), pytest.approx((first[1] + second[1]) / 2))


class Workers:
    """Write the seed and an end, and find every token as likely as the weights they hold say."""

    def __init__(self, logprob: float = math.log(0.5)):
        self.logprob = logprob
        self.sampled: list[tuple[tuple[int, ...], int, int]] = []
        self.num_read = 0

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        self.sampled.append((tuple(prompt_tokens), max_new_tokens, seed))
        return (100 + seed, 0)

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        self.num_read += 1
        return (self.logprob,) * len(completion_tokens)


def measure(retention: Retention, version: int) -> dict[str, float]:
    metrics = asyncio.run(retention.measure(version))
    check_declared(metrics)
    return metrics


def test_the_base_is_sampled_once_and_held_against_the_student_ever_after(tmp_path: Path) -> None:
    workers = Workers()
    retention = Retention(workers, PROMPTS, run_dir=tmp_path)
    assert measure(retention, 0) == {"retention/base_student_kl_nats": 0.0, "retention/student_base_kl_nats": 0.0}
    workers.logprob = math.log(0.25)
    forward, reverse = token_terms(0.5, 0.25)
    for version in (5, 10):
        assert measure(retention, version) == {
            "retention/base_student_kl_nats": pytest.approx(forward),
            "retention/student_base_kl_nats": pytest.approx(reverse),
        }
    assert workers.sampled == [((9, 1), MAX_NEW_TOKENS, 0), ((9, 2), MAX_NEW_TOKENS, 1)]


def test_the_base_is_read_once_before_the_first_step_and_once_at_every_evaluation_after_it(tmp_path: Path) -> None:
    workers = Workers()
    retention = Retention(workers, PROMPTS, run_dir=tmp_path)
    for version, num_read in ((0, 2), (5, 4), (10, 6)):
        measure(retention, version)
        assert workers.num_read == num_read


def test_every_prompt_is_completed_before_the_first_completion_is_read(tmp_path: Path) -> None:
    class Careful(Workers):
        async def sample(
            self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
        ) -> tuple[int, ...]:
            await asyncio.sleep(0.001 * seed)
            assert self.num_read == 0
            return await super().sample(prompt_tokens, max_new_tokens, temperature, top_p, seed)

    measure(Retention(Careful(), PROMPTS, run_dir=tmp_path), 0)


def test_a_resumed_run_takes_the_base_from_the_file_and_not_from_its_weights(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    measure(Retention(Workers(), PROMPTS, run_dir=first), 0)
    workers = Workers(logprob=math.log(0.25))
    resumed = Retention(workers, PROMPTS, run_dir=second, resumed_dir=first)
    assert measure(resumed, 7)["retention/base_student_kl_nats"] == pytest.approx(token_terms(0.5, 0.25)[0])
    assert workers.sampled == []
    assert (second / "retention.jsonl").read_text() == (first / "retention.jsonl").read_text()


def test_the_file_holds_a_line_a_prompt_with_tokens_and_logprobs(tmp_path: Path) -> None:
    measure(Retention(Workers(), PROMPTS, run_dir=tmp_path), 0)
    first, second = [json.loads(line) for line in (tmp_path / "retention.jsonl").read_text().splitlines()]
    assert first == {
        "step": 0, "example_id": "a", "prompt_tokens": [9, 1], "completion_tokens": [100, 0],
        "logprobs": [math.log(0.5)] * 2,
    }  # fmt: skip
    assert second["completion_tokens"] == [101, 0]


def test_a_resumed_run_without_the_file_is_refused_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"retention\.jsonl is missing.*evaluation\.general=''"):
        Retention(Workers(), PROMPTS, run_dir=tmp_path, resumed_dir=tmp_path)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], [PROMPTS[0], GeneralPrompt("b", (9, 3))]])
def test_a_resumed_run_with_other_prompts_is_refused(tmp_path: Path, prompts: list[GeneralPrompt]) -> None:
    measure(Retention(Workers(), PROMPTS, run_dir=tmp_path), 0)
    with pytest.raises(CheckpointError, match="other prompts than evaluation.general names"):
        Retention(Workers(), prompts, run_dir=tmp_path, resumed_dir=tmp_path)


def test_weights_that_were_trained_are_never_taken_for_the_base(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights 3 cannot make them"):
        measure(Retention(Workers(), PROMPTS, run_dir=tmp_path), 3)


def test_a_run_that_begins_anew_in_the_same_folder_samples_anew(tmp_path: Path) -> None:
    measure(Retention(Workers(), PROMPTS, run_dir=tmp_path), 0)
    workers = Workers()
    measure(Retention(workers, PROMPTS, run_dir=tmp_path), 0)
    assert len(workers.sampled) == 2
