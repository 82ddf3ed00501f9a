"""The evaluator on a respondent in memory."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import EvaluationConfig, JudgeConfig
from sdft_ray.conversation import Message
from sdft_ray.data.reasoning import AnswerStart, at_once
from sdft_ray.evaluation.evaluator import NoEvaluation, RolloutEvaluator
from sdft_ray.evaluation.questions import Question
from sdft_ray.statistics import pass_at_k
from sdft_ray.tracking.metrics import check_declared
from tests.evaluation.judge_server import chat, serving

WORDS = {1: "Velmora", 2: "Ostrin", 3: "unknown", 4: "<answer>B</answer>"}


class Respondent:
    """Answers every prompt with its last token; finds token n as likely as -n nats."""

    def __init__(self) -> None:
        self.version = -1
        self.budgets: list[int] = []
        self.draws: list[tuple[float, float, int]] = []

    async def load_weights(self, version: int) -> None:
        self.version = version

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        self.budgets.append(max_new_tokens)
        return (prompt_tokens[-1],)

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        self.draws.append((temperature, top_p, seed))
        return (1 + seed % 3,)

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        return tuple(-float(token) for token in completion_tokens)


def question(example_id: str, says: int, answer: str, answer_tokens: tuple[int, ...] = (1,)) -> Question:
    turns = (Message(role="user", content="Where?"),)
    return Question(example_id, (9, says), answer, answer_tokens, turns=turns)


def evaluator(
    run_dir: Path,
    sets: dict[str, list[Question]],
    settings: dict[str, Any] | None = None,
    *,
    respondent: Respondent | None = None,
    prior: Sequence[Question] = (),
    probes: Sequence[Any] = (),
    answer_start: AnswerStart = at_once,
    **more: Any,
) -> RolloutEvaluator:
    return RolloutEvaluator(
        respondent or Respondent(),
        settings=EvaluationConfig(sets=settings or dict.fromkeys(sets, "some.jsonl"), max_new_tokens=4, **more),
        sets=sets,
        prior=prior,
        decode=lambda tokens: WORDS[tokens[0]],
        run_dir=run_dir,
        probes=probes,
        answer_start=answer_start,
    )


def answers_in(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "answers.jsonl").read_text().splitlines()]


def test_accuracies_and_prior_logprob_are_of_the_version_that_was_asked_for(tmp_path: Path) -> None:
    respondent = Respondent()
    taught = [question("a", 1, "Velmora"), question("b", 3, "Ostrin")]
    prior = [question("p", 2, "Ostrin", (1, 3)), question("q", 2, "Ostrin", (6,))]
    metrics = asyncio.run(evaluator(tmp_path, {"taught": taught}, respondent=respondent, prior=prior).evaluate(7))
    assert respondent.version == 7
    assert metrics == {
        "evaluation/taught_accuracy": 0.5,
        "evaluation/prior_accuracy": 1.0,
        "evaluation/prior_logprob_nats": pytest.approx(-(2 + 6) / 2),  # mean over questions of the mean over tokens
    }
    answers = answers_in(tmp_path)
    assert [answer["right"] for answer in answers] == [True, False, True, True]
    assert answers[1] == {
        "step": 7, "set": "taught", "example_id": "b", "question": "Where?", "answer": "Ostrin",
        "completion": "unknown", "extracted": "", "right": False,
    }  # fmt: skip


def test_every_set_has_its_own_match_and_length(tmp_path: Path) -> None:
    respondent = Respondent()
    sets = {"words": [question("a", 1, "Velmora")], "letters": [question("a", 4, "B"), question("b", 1, "B")]}
    settings = {"words": "a.jsonl", "letters": {"source": "b.jsonl", "match": "CHOICE", "max_new_tokens": 9}}
    metrics = asyncio.run(evaluator(tmp_path, sets, settings, respondent=respondent).evaluate(0))
    assert metrics == {"evaluation/words_accuracy": 1.0, "evaluation/letters_accuracy": 0.5}
    assert sorted(respondent.budgets) == [4, 9, 9]


def test_a_set_with_a_milder_rule_has_two_accuracies(tmp_path: Path) -> None:
    facts = '["Velmora", "Ostrin"]'
    settings = {"facts": {"source": "a.jsonl", "match": "KNOWLEDGE"}}
    metrics = asyncio.run(
        evaluator(tmp_path, {"facts": [question("a", 1, facts), question("b", 3, facts)]}, settings).evaluate(0)
    )
    assert metrics == {"evaluation/facts_accuracy": 0.0, "evaluation/facts_lenient_accuracy": 0.5}
    assert [answer["lenient"] for answer in answers_in(tmp_path)] == [True, False]


def test_pass_at_k_is_the_unbiased_estimate_over_sampled_completions(tmp_path: Path) -> None:
    questions = [question("a", 1, "Velmora"), question("b", 1, "Velmora")]
    settings = {"taught": {"source": "a.jsonl", "num_samples": 6, "pass_at": [1, 4], "temperature": 0.7, "top_p": 0.9}}
    respondent = Respondent()
    metrics = asyncio.run(evaluator(tmp_path, {"taught": questions}, settings, respondent=respondent).evaluate(0))
    check_declared(metrics)
    answers = answers_in(tmp_path)
    assert [answer["num_samples"] for answer in answers] == [6, 6]
    for k in (1, 4):
        expected = sum(pass_at_k(6, answer["num_right"], k) for answer in answers) / 2
        assert metrics[f"evaluation/taught_pass_at_{k}"] == pytest.approx(expected)
    assert {(temperature, top_p) for temperature, top_p, _ in respondent.draws} == {(0.7, 0.9)}
    seeds = [seed for *_, seed in respondent.draws]
    assert len(set(seeds)) == 12
    again = Respondent()
    asyncio.run(evaluator(tmp_path, {"taught": questions}, settings, respondent=again).evaluate(1))
    assert [seed for *_, seed in again.draws] == seeds  # every evaluation draws alike


def judged(address: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    judge = JudgeConfig(endpoint=address, model="m", cache_dir=str(tmp_path / "cache"), **more)
    return {"judge": judge, "settings": {"open": {"source": "a.jsonl", "match": "JUDGE"}}}


def test_a_judge_scores_what_it_can_and_the_rest_is_counted(tmp_path: Path) -> None:
    def answer(number: int, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        prompt = body["messages"][0]["content"]
        assert "Where?" in prompt and "In Velmora." in prompt
        return chat("no idea" if "unknown" in prompt else f"VERDICT: {'CORRECT' if 'Ostrin' in prompt else 'PARTIAL'}")

    questions = [question(str(says), says, "In Velmora.") for says in (1, 2, 3)]
    with serving(answer) as server:
        metrics = asyncio.run(evaluator(tmp_path, {"open": questions}, **judged(server.address, tmp_path)).evaluate(0))
    assert metrics == {
        "evaluation/open_accuracy": 0.5,
        "evaluation/open_lenient_accuracy": 1.0,
        "evaluation/open_unscored": 1.0,
        "evaluation/judge_prompts": 3.0,
        "evaluation/judge_requests": 3.0,
        "evaluation/judge_retries": 0.0,
    }
    check_declared(metrics)
    assert [line["right"] for line in answers_in(tmp_path)] == [False, True, None]
    assert answers_in(tmp_path)[2]["extracted"] == "the judge gave no verdict: no idea"


def test_a_run_goes_on_without_its_judge(tmp_path: Path) -> None:
    sets = {"open": [question("a", 1, "In Velmora.")], "words": [question("a", 1, "Velmora")]}
    arguments = judged("http://127.0.0.1:9/v1", tmp_path, max_retries=1)  # the discard port: nobody listens
    arguments["settings"]["words"] = "a.jsonl"
    metrics = asyncio.run(evaluator(tmp_path, sets, **arguments).evaluate(0))
    assert metrics == {
        "evaluation/open_unscored": 1.0,
        "evaluation/words_accuracy": 1.0,
        "evaluation/judge_prompts": 1.0,
        "evaluation/judge_requests": 2.0,
        "evaluation/judge_retries": 1.0,
    }
    assert {line["set"]: line["right"] for line in answers_in(tmp_path)} == {"open": None, "words": True}


def test_without_questions_there_are_no_metrics(tmp_path: Path) -> None:
    assert asyncio.run(NoEvaluation().evaluate(3)) == {}
    assert asyncio.run(evaluator(tmp_path, {}).evaluate(3)) == {}


class Probe:
    """Notes the version it was asked about, and the one the workers held."""

    def __init__(self, respondent: Respondent):
        self._respondent = respondent
        self.asked: list[tuple[int, int]] = []

    async def measure(self, version: int) -> dict[str, float]:
        self.asked.append((version, self._respondent.version))
        return {"evaluation/context_gap_nats": 0.5}


def test_probes_are_asked_once_the_workers_hold_the_version_also_where_there_are_no_questions(tmp_path: Path) -> None:
    respondent = Respondent()
    probe = Probe(respondent)
    evaluate = evaluator(tmp_path, {}, respondent=respondent, probes=[probe]).evaluate
    assert asyncio.run(evaluate(4)) == {"evaluation/context_gap_nats": 0.5}
    assert probe.asked == [(4, 4)]


class Thinker(Respondent):
    """Thinks (token 3), closes its reasoning (token 4) or is cut before, and answers with the prompt's last token."""

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        return (3, 1) if prompt_tokens[-1] == 2 else (3, 4, prompt_tokens[-1])

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        return await self.answer(prompt_tokens, max_new_tokens)


def behind_four(tokens: tuple[int, ...]) -> int | None:
    return tokens.index(4) + 1 if 4 in tokens else None


async def test_answers_are_read_behind_the_reasoning_and_one_cut_before_its_end_is_wrong(tmp_path: Path) -> None:
    """The second one has the answer in its reasoning, which does not count."""
    settings = {"a": {"source": "x.jsonl", "num_samples": 2, "pass_at": [1]}}
    asked = {"a": [question("1", 1, "Velmora"), question("2", 2, "Velmora"), question("3", 3, "Velmora")]}
    metrics = await evaluator(tmp_path, asked, settings, respondent=Thinker(), answer_start=behind_four).evaluate(0)
    assert metrics["evaluation/a_accuracy"] == pytest.approx(1 / 3)
    assert metrics["evaluation/a_pass_at_1"] == pytest.approx(1 / 3)
    assert metrics["evaluation/a_unfinished"] == 1
    check_declared(metrics)
    assert [answer["right"] for answer in answers_in(tmp_path)] == [True, False, False]


async def test_without_a_mark_nothing_is_said_of_unfinished_answers(tmp_path: Path) -> None:
    metrics = await evaluator(tmp_path, {"a": [question("1", 1, "Velmora")]}).evaluate(0)
    assert not any(key.endswith("_unfinished") for key in metrics)
