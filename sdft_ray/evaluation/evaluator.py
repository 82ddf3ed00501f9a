"""The evaluator: asks the rollout workers, which hold the student, and scores what they say."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sdft_ray.config import PRIOR, EvaluationConfig, EvaluationSetConfig, Match
from sdft_ray.data.reasoning import AnswerStart, at_once
from sdft_ray.evaluation.judge import Judge, Judged
from sdft_ray.evaluation.probes import Probe
from sdft_ray.evaluation.questions import Question
from sdft_ray.evaluation.scorers import Gold, Score, score
from sdft_ray.statistics import pass_at_k
from sdft_ray.tracking.jsonl import ANSWERS_FILE, line_of
from sdft_ray.tracking.line_file import LineFile


class Respondent(Protocol):
    """Who is asked: the pool of rollout workers."""

    async def load_weights(self, version: int) -> None:
        """Returns when it answers with the student's weights of `version`."""
        ...

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion of a prompt."""
        ...

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """A completion of a prompt drawn at `temperature` from the `top_p` share of the probability mass."""
        ...

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion."""
        ...


class NoEvaluation:
    """Implements `roles.Evaluator` where there is nothing to ask and nobody to be asked."""

    async def evaluate(self, version: int) -> dict[str, float]:
        """No metrics."""
        return {}


class RolloutEvaluator:
    """Implements `roles.Evaluator`."""

    def __init__(
        self,
        respondent: Respondent,
        *,
        settings: EvaluationConfig,
        sets: Mapping[str, Sequence[Question]],
        prior: Sequence[Question],
        decode: Callable[[tuple[int, ...]], str],
        run_dir: Path,
        seed: int = 0,
        probes: Sequence[Probe] = (),
        answer_start: AnswerStart = at_once,
    ):
        """Every greedy answer goes to answers.jsonl in the run folder, so that a person can see what counted as right.

        Args:
            respondent: who answers.
            settings: how each set is asked and scored.
            sets: questions by the name of their set.
            prior: questions about what the model knew before; also scored by the logprob of the answer.
            decode: token ids to text without special tokens.
            run_dir: the run folder.
            seed: of the sampled completions, which are drawn alike in every evaluation.
            probes: what is measured besides.
            answer_start: where the part of a completion begins that is scored; one without such a part is wrong.
        """
        self._respondent = respondent
        self._sets = dict(sets) | ({PRIOR: prior} if prior else {})
        self._settings = settings.named_sets() | {PRIOR: settings.prior_set()}
        judged = any(self._settings[name].match is Match.JUDGE for name in self._sets)
        self._judge = Judge(settings.judge, run_dir) if judged else None
        self._prior = prior
        self._decode = decode
        self._seed = seed
        self._probes = probes
        self._answer_start = answer_start
        self._answers = LineFile(run_dir / ANSWERS_FILE)

    async def evaluate(self, version: int) -> dict[str, float]:
        """Metrics of the student's weights of `version`; none where there is nothing to ask."""
        if not self._sets and not self._probes:
            return {}
        await self._respondent.load_weights(version)
        if self._judge:
            self._judge.begin()
        metrics: dict[str, float] = {}
        for of_set in await asyncio.gather(*(self._evaluate_set(version, name) for name in self._sets)):
            metrics |= of_set
        if self._prior:
            metrics["evaluation/prior_logprob_nats"] = await self._prior_logprob()
        for probe in self._probes:
            metrics |= await probe.measure(version)
        return metrics | (self._judge.metrics() if self._judge else {})

    async def _evaluate_set(self, version: int, name: str) -> dict[str, float]:
        """Accuracies of the greedy answers, and pass@k of sampled ones; writes the answers down."""
        questions, settings = self._sets[name], self._settings[name]
        greedy, sampled = await asyncio.gather(
            asyncio.gather(*(self._greedy(question, settings) for question in questions)),
            asyncio.gather(*(self._sampled(name, question, settings) for question in questions)),
        )
        records: list[dict[str, Any]] = []
        for question, (completion, given, _), samples in zip(questions, greedy, sampled, strict=True):
            record = {
                "step": version,
                "set": name,
                "example_id": question.example_id,
                "question": question.text,
                "answer": question.answer,
                "completion": completion,
                "extracted": given.extracted,
                "right": given.right,
            }
            if given.lenient is not None:
                record["lenient"] = given.lenient
            if settings.num_samples:
                record |= {"num_samples": len(samples), "num_right": sum(samples)}
            records.append(record)
        self._answers.write(line_of(record) for record in records)
        return {
            **_accuracies(name, settings, [given for _, given, _ in greedy]),
            **self._unfinished(name, [is_finished for _, _, is_finished in greedy]),
            **_passed(name, settings, sampled),
        }

    def _unfinished(self, name: str, finished: Sequence[bool]) -> dict[str, float]:
        """How many answers never began; nothing where they begin at once."""
        if self._answer_start(()) == 0:
            return {}
        return {f"evaluation/{name}_unfinished": float(len(finished) - sum(finished))}

    async def _greedy(self, question: Question, settings: EvaluationSetConfig) -> tuple[str, Score, bool]:
        """The whole completion, the score of the answer in it, and whether it came to one."""
        tokens = await self._respondent.answer(question.prompt_tokens, settings.max_new_tokens)
        score = await self._score(question, tokens, settings.match)
        return self._decode(tokens), score, self._answer_start(tokens) is not None

    async def _sampled(self, name: str, question: Question, settings: EvaluationSetConfig) -> list[bool]:
        """Whether each sampled completion is right; those that could not be scored are left out."""
        generator = random.Random(f"{self._seed}/{name}/{question.example_id}")

        async def one(seed: int) -> bool | None:
            tokens = await self._respondent.sample(
                question.prompt_tokens, settings.max_new_tokens, settings.temperature, settings.top_p, seed
            )
            return (await self._score(question, tokens, settings.match)).right

        rights = await asyncio.gather(*(one(generator.getrandbits(63)) for _ in range(settings.num_samples)))
        return [right for right in rights if right is not None]

    async def _score(self, question: Question, tokens: tuple[int, ...], match: Match) -> Score:
        start = self._answer_start(tokens)
        if start is None:
            return Score(False, "", False if match in (Match.JUDGE, Match.KNOWLEDGE) else None)
        completion = self._decode(tokens[start:])
        if match is Match.JUDGE:
            assert self._judge is not None
            return await self._judge.score(Judged(question.text, question.answer, completion))
        return score(completion, Gold(question.answer, question.acceptable), match, question.given_texts)

    async def _prior_logprob(self) -> float:
        """Mean over questions of the mean logprob per token of the gold answer [nats]."""
        logprobs = await asyncio.gather(
            *(self._respondent.logprobs(question.prompt_tokens, question.answer_tokens) for question in self._prior)
        )
        return sum(sum(values) / len(values) for values in logprobs) / len(logprobs)


def _accuracies(name: str, settings: EvaluationSetConfig, scores: Sequence[Score]) -> dict[str, float]:
    """Shares of the answers that could be scored; none where there is no such answer."""
    scored = [given for given in scores if given.right is not None]
    metrics: dict[str, float] = {}
    if scored:
        metrics[f"evaluation/{name}_accuracy"] = sum(bool(given.right) for given in scored) / len(scored)
    lenient = [given.lenient for given in scored if given.lenient is not None]
    if lenient:
        metrics[f"evaluation/{name}_lenient_accuracy"] = sum(lenient) / len(lenient)
    if settings.match is Match.JUDGE:
        metrics[f"evaluation/{name}_unscored"] = float(len(scores) - len(scored))
    return metrics


def _passed(name: str, settings: EvaluationSetConfig, sampled: Sequence[Sequence[bool]]) -> dict[str, float]:
    """pass@k, mean over the questions of which k samples or more could be scored; none where no question is such."""
    metrics: dict[str, float] = {}
    for k in settings.pass_at:
        chances = [pass_at_k(len(rights), sum(rights), k) for rights in sampled if len(rights) >= k]
        if chances:
            metrics[f"evaluation/{name}_pass_at_{k}"] = sum(chances) / len(chances)
    return metrics
