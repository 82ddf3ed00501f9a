"""Completions from elsewhere than the student's own samples of this step; all implement `roles.Completions`.

Off-policy data: demonstrations and raw texts that the examples bring, and what the teacher writes once before training,
for offline distillation and for SFT on its samples. And on-policy samples that are handed on together.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sdft_ray.data.passes import stable_hash
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout
from sdft_ray.roles import Completions
from sdft_ray.tracking.jsonl import cut_after, line_of, lines_until
from sdft_ray.tracking.line_file import LineFile

RECORD_FILE = "completions.jsonl"


class GivenCompletions:
    """What the examples bring. Nothing is sampled: every logprob is 0, and no version is ever stale."""

    def __init__(self, weight_version: int = 0):
        self._weight_version = weight_version

    async def complete(self, example: TokenizedExample) -> Rollout:
        """What the example brings, which ends in an end-of-sequence token."""
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=example.demonstration_tokens,
            logprobs=(0.0,) * len(example.demonstration_tokens),
            weight_version=self._weight_version,
            truncated=False,
            num_sampled=0,
        )

    async def load_weights(self, version: int) -> None:
        """Remembers `version`: what is given depends on no weights."""
        self._weight_version = version


class CompletedTogether:
    """Implements roles.Completions: what another one samples, handed on as soon as nothing is being sampled.

    Scoring begins when a completion is handed on. On cores of its own it should begin with the first; on the sampler's
    cores it would slow the others down by more than it gains: two sets of threads that take turns at every barrier lose
    most of their time there, and a few completions are scored at a fraction of the speed of many.
    """

    def __init__(self, sampler: Completions):
        self._sampler = sampler
        self._num_open = 0
        self._idle = asyncio.Event()

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion, once all that are under way are complete; a failure is handed on at once."""
        self._num_open += 1
        self._idle.clear()
        try:
            rollout = await self._sampler.complete(example)
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._idle.set()
        await self._idle.wait()
        return rollout

    async def load_weights(self, version: int) -> None:
        """Has the sampler load them."""
        await self._sampler.load_weights(version)


class RecordedCompletions:
    """Implements roles.Completions with one completion an example, the same in every epoch and never stale.

    It is sampled under the teacher prompt by the weights the sampler holds when it is recorded, and trained on under
    the plain prompt. The record is a file in the run folder, so a run that goes on after a kill samples nothing twice.
    """

    def __init__(
        self,
        sampler: Completions,
        run_dir: Path,
        decode: Callable[[tuple[int, ...]], str],
        *,
        resumes: bool,
        together: bool = False,
    ):
        """Takes over what the file holds if the run `resumes`, and begins it anew otherwise.

        With `together`, as in a deterministic run, a record that lacks a completion is made anew as a whole: what is
        sampled alone is rounded in another way. Of two lines of one example the later one counts.

        Raises:
            CheckpointError: a line of the file before the last is not JSON.
        """
        self._sampler = sampler
        self._path = run_dir / RECORD_FILE
        self._decode = decode
        self._kept_step = 0 if resumes else None
        self._together = together
        lines = lines_until(self._path, self._kept_step)
        self._recorded = {
            line["key"]: (tuple(line["tokens"]), tuple(line["logprobs"]), line["truncated"]) for line in lines
        }
        self._weight_version = 0

    async def record(self, examples: Sequence[TokenizedExample], say: Callable[[str], None] = print) -> None:
        """Samples a completion of every example that has none yet; called before any weights are loaded.

        A full disk ends nothing: `say` is told what could not be written, which a resumed run samples again.
        """
        cut_after(self._path, self._kept_step)
        wanted = {_key(example): example for example in examples}
        missing = {key: example for key, example in wanted.items() if key not in self._recorded}
        if missing and self._together:
            missing = wanted
        with closing(LineFile(self._path, say)) as lines:
            async with asyncio.TaskGroup() as tasks:
                for example in missing.values():
                    tasks.create_task(self._record(example, lines))

    async def _record(self, example: TokenizedExample, lines: LineFile) -> None:
        rollout = await self._sampler.complete(replace(example, prompt_tokens=example.teacher_prompt_tokens))
        key, tokens = _key(example), rollout.completion_tokens
        self._recorded[key] = tokens, rollout.logprobs, rollout.truncated
        line = {
            "step": 0,
            "key": key,
            "example_id": example.example_id,
            "completion": self._decode(tokens),
            "tokens": tokens,
            "logprobs": rollout.logprobs,
            "truncated": rollout.truncated,
        }
        lines.write([line_of(line)])

    async def complete(self, example: TokenizedExample) -> Rollout:
        """The completion that was recorded for the example, sampled before; its logprobs are the teacher's.

        Raises:
            KeyError: nobody recorded it.
        """
        tokens, logprobs, truncated = self._recorded[_key(example)]
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=tokens,
            logprobs=logprobs,
            weight_version=self._weight_version,
            truncated=truncated,
            num_sampled=0,
        )

    async def load_weights(self, version: int) -> None:
        """Remembers `version`: a record depends on no weights."""
        self._weight_version = version


class RehearsedCompletions:
    """Implements roles.Completions where examples bring their completions: rehearsal rows have recorded ones.

    Token targets learn the tokens themselves. What the student samples as it is would pin it to where it has moved, so
    that rehearsal rows have the completions that the model wrote before it was trained.
    """

    def __init__(self, given: Completions, recorded: RecordedCompletions):
        """`given` completes the examples, `recorded` the rehearsal rows."""
        self._given, self._recorded = given, recorded

    async def record(self, examples: Sequence[TokenizedExample], say: Callable[[str], None] = print) -> None:
        """As `RecordedCompletions.record`, of the rehearsal rows among `examples`."""
        await self._recorded.record([example for example in examples if example.is_rehearsal], say)

    async def complete(self, example: TokenizedExample) -> Rollout:
        """The completion of an example, or the one recorded for a rehearsal row."""
        return await (self._recorded if example.is_rehearsal else self._given).complete(example)

    async def load_weights(self, version: int) -> None:
        """Has both take them over."""
        await self._given.load_weights(version)
        await self._recorded.load_weights(version)


def _key(example: TokenizedExample) -> int:
    """What a record belongs to: the example in the context in which the teacher sees it, in whatever epoch."""
    return stable_hash(example.example_id, example.teacher_prompt_tokens)
