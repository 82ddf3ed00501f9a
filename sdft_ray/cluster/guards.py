"""Guards: what two parts of a run have to compute alike, compared on real rows. One line each, or the end of the run.

Before the first step each rollout engine is given the student's weights as every later version reaches it, and its
logprobs are held against the learner's. After training the exported folder is loaded again, and its logits are held
against the student's. No list of model names decides what works.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from sdft_ray.config import Precision, RunConfig
from sdft_ray.errors import GuardError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.export import UNVERIFIED_FILE

MAX_COMPLETION_TOKENS = 64  # of a row: wrong weights show in every token


class Gap(NamedTuple):
    """How far two sides may differ."""

    largest: float
    mean: float


# |engine - learner| of a token's logprob [nats]. Measured on a CPU in fp32: 3e-5, and 1.0 to 5.7 where experts of a
# mixture were not packed. The bounds are not measured: 0.02 and 0.5 are the tolerances of tests/gpu/test_run.py, which
# has to allow for attention that rounds its products; the means are a tenth of them.
ENGINE_TOLERANCE = {Precision.FLOAT32: Gap(0.02, 0.002), Precision.BFLOAT16: Gap(0.5, 0.05)}

RELOADING = (
    "vLLM does not reload this architecture as the learner publishes it, or computes it in another way: take another "
    "model, method=sft, which samples nothing, or another weights.channel."
)

# |folder - student| of a logit over their range. The student may compute on a GPU, the folder on a CPU.
EXPORT_TOLERANCE = {Precision.FLOAT32: 1e-3, Precision.BFLOAT16: 0.1}


class Student(Protocol):
    """What the guards ask of the learner group."""

    weight_version: int

    async def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs [T, nats] of the completion tokens of every row."""
        ...

    async def export_gap(self, folder: Path, rows: Sequence[GuardRow]) -> float:
        """The largest difference of an exported folder's logits from the student's, over their range."""
        ...


class Engines(Protocol):
    """What the guards ask of the rollout workers."""

    async def load_weights(self, version: int, *, published: bool = False) -> None:
        """Returns when every worker holds the student's weights of `version`; with `published`, from the learner."""
        ...

    async def logprobs_of_all(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> Mapping[int, tuple[float, ...]]:
        """Logprobs [T, nats] of a given completion by rank, from every worker that serves."""
        ...

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """The same from any; returns once a worker serves."""
        ...


async def check_engines(
    engines: Engines,
    student: Student,
    rows: Sequence[GuardRow],
    *,
    cfg: RunConfig,
    max_model_len: int,
    say: Callable[[str], None],
) -> None:
    """Loads the student's weights into every engine and compares the logprobs of `rows`.

    Args:
        engines: of the rollout workers.
        student: the learner, whose logprobs are right by definition.
        rows: what both read.
        cfg: the precision of both sides.
        max_model_len: tokens an engine reads at most.
        say: prints a line.

    Raises:
        GuardError: a worker's logprobs are not those of the weights it was given.
        WorkerLostError: all workers are lost, and none comes in time.
    """
    rows = [cut(row, max_model_len - 1) for row in rows]
    await engines.load_weights(student.weight_version, published=True)
    expected = list(chain.from_iterable(await student.logprobs(rows)))
    # Row after row: an engine reads a batch of prompts whole for their logprobs.
    answers = [await engines.logprobs_of_all(row.prompt_tokens, row.completion_tokens) for row in rows]
    while not set.intersection(*map(set, answers)):  # none has answered all: they are being replaced
        await engines.logprobs(rows[0].prompt_tokens, rows[0].completion_tokens)
        answers = [await engines.logprobs_of_all(row.prompt_tokens, row.completion_tokens) for row in rows]
    gaps = refuse_other_weights(answers, expected, cfg, f"the student's weights {student.weight_version}", RELOADING)
    worst = Gap(max(gap.largest for gap in gaps), max(gap.mean for gap in gaps))
    say(
        f"checked        {_counted(len(gaps), 'rollout engine')} with the student's weights: logprobs differ from the "
        f"learner's by up to {worst.largest:.1e} nats, by {worst.mean:.1e} on average"
    )


def refuse_other_weights(
    answers: Sequence[Mapping[int, tuple[float, ...]]],
    expected: Sequence[float],
    cfg: RunConfig,
    weights: str,
    remedy: str,
) -> list[Gap]:
    """How far the rollout workers' logprobs are from the learner's, of those that have answered every row.

    Args:
        answers: logprobs [T, nats] of every row, by rank of the worker.
        expected: those of the learner, of all rows in one.
        cfg: the precision of both sides.
        weights: what the workers were given.
        remedy: why they may compute others, and what to do.

    Raises:
        GuardError: a worker's logprobs are not those of the weights it was given.
    """
    precision = coarser(cfg.model.dtype, cfg.learner.precision)
    ranks = sorted(set.intersection(*map(set, answers)))  # a worker may come or go between two rows
    gaps = [gap_between(chain.from_iterable(of_row[rank] for of_row in answers), expected) for rank in ranks]
    tolerance = ENGINE_TOLERANCE[precision]
    for rank, gap in zip(ranks, gaps, strict=True):
        if not (gap.largest <= tolerance.largest and gap.mean <= tolerance.mean):  # NaN is no small gap
            raise GuardError(
                f"rollout worker {rank} was given {weights} and computes others: "
                f"the logprobs of {len(expected)} tokens differ from the learner's by up to {gap.largest:.3g} nats, by "
                f"{gap.mean:.3g} on average; {tolerance.largest:g} and {tolerance.mean:g} are what rounding in "
                f"{precision.name} explains. It would train on samples of another model. {remedy}"
            )
    return gaps


async def check_export(
    student: Student, folder: Path, rows: Sequence[GuardRow], precision: Precision, say: Callable[[str], None]
) -> None:
    """Loads an exported folder again and compares its logits with the student's; the folder counts from then on.

    Raises:
        GuardError: it computes something else. The folder stays, with `UNVERIFIED_FILE` in it.
    """
    rows = [cut(row, len(row.prompt_tokens) + MAX_COMPLETION_TOKENS) for row in rows]
    gap, tolerance = await student.export_gap(folder, rows), EXPORT_TOLERANCE[precision]
    if not gap <= tolerance:
        raise GuardError(
            f"{folder} computes other logits than the student it was exported from: they differ by {gap:.2g} of their "
            f"range, where {tolerance:g} is what rounding explains. The folder stays and is marked by "
            f"{UNVERIFIED_FILE}; the student is whole in the last checkpoint. Something that this architecture "
            "computes with is not saved with it: do not use the folder before you have found what."
        )
    (folder / UNVERIFIED_FILE).unlink()
    say(f"checked        the exported folder computes the student's logits: {gap:.0e} of their range")


def cut(row: GuardRow, max_tokens: int) -> GuardRow:
    """The row with at most `MAX_COMPLETION_TOKENS` completion tokens and `max_tokens` in all, at least one of each."""
    prompt = row.prompt_tokens[-(max_tokens - 1) :]
    num_tokens = min(MAX_COMPLETION_TOKENS, max_tokens - len(prompt))
    return replace(row, prompt_tokens=prompt, completion_tokens=row.completion_tokens[:num_tokens])


def coarser(*precisions: Precision) -> Precision:
    """The precision whose rounding dominates."""
    return Precision.BFLOAT16 if Precision.BFLOAT16 in precisions else Precision.FLOAT32


def gap_between(given: Iterable[float], expected: Sequence[float]) -> Gap:
    """The differences of two series of equal length; NaN where one of them holds one."""
    differences = [abs(one - other) for one, other in zip(given, expected, strict=True)]
    mean = sum(differences) / len(differences)
    return Gap(max(differences) if mean == mean else mean, mean)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
