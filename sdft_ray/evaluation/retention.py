"""How far the student has moved from the model it began as, on prompts that nobody teaches: forgetting, cheaply.

Before the first step the base model writes one completion to every general prompt, at temperature 1. At every
evaluation the student is asked how likely it finds those very tokens. Nothing else is needed: no second model, no
distribution over a vocabulary, only logprobs that rollout workers give anyway.

Legend: q the base's and p the student's next-token distribution after one and the same prefix, y ~ q the token the
base wrote there, r = p(y) / q(y), x = log r. Everything is in nats.

    KL(q || p) = E_q[-log r]  = E_q[r - 1 - log r]         base to student
    KL(p || q) = E_p[log r]   = E_q[r log r - (r - 1)]     student to base

E_q[r] = sum_y q (p / q) = 1, so r - 1 adds nothing to an expectation, and E_p[f] = E_q[r f] turns the second line into
one over the base's tokens. Both are therefore unbiased at each prefix. Both integrands are tangents' distances of a
convex function (-log r, and r log r, at r = 1), so no token's term is below 0 and no estimate is either; the plain
-log r has neither property for one token. That -log r gains the control variate r - 1, and why it is r - 1, is
J. Schulman's note "Approximating KL divergence" (2020).

What it is not: the prefixes are the BASE's, in both directions. KL(p || q) here is a mean over what the base writes,
not over what the student would; and where the student puts its mass on tokens the base hardly ever writes, few draws
see it: the estimate is then mostly too low and now and then far too high. Read it as a trend over a run, and across
runs that began with the same model: these share their prompts, their seeds and, up to rounding, their completions.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from sdft_ray.errors import CheckpointError
from sdft_ray.tracking.jsonl import lines_until, write_lines

RETENTION_FILE = "retention.jsonl"
MAX_NEW_TOKENS = 32  # of a completion: enough to leave its opening phrase, few enough for every evaluation


class GeneralPrompt(NamedTuple):
    """One general prompt."""

    example_id: str
    prompt_tokens: tuple[int, ...]  # [P]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseCompletion:
    """What the base model wrote to a general prompt, as a line of retention.jsonl."""

    step: int  # 0: before the first
    example_id: str
    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T]
    logprobs: tuple[float, ...]  # [T] log q(y), nats


class Sampler(Protocol):
    """Who is asked: the pool of rollout workers."""

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """A completion of a prompt, drawn at temperature 1."""
        ...

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion at temperature 1."""
        ...


class Retention:
    """Implements `probes.Probe`."""

    def __init__(
        self, sampler: Sampler, prompts: Sequence[GeneralPrompt], *, run_dir: Path, resumed_dir: Path | None = None
    ):
        """A resumed run goes on with the completions it once took from the base, since it holds the base no more.

        Args:
            sampler: who completes and reads.
            prompts: all completed before the first step, each with its own seed.
            run_dir: the run folder.
            resumed_dir: the folder of the run that is resumed, in general the same; None for a new run.

        Raises:
            CheckpointError: as `read_base` does.
        """
        self._sampler = sampler
        self._prompts = tuple(prompts)
        self._file = run_dir / RETENTION_FILE
        self._base: list[BaseCompletion] = []
        if resumed_dir is not None:
            self._base = read_base(resumed_dir, prompts)
            self._write()

    async def measure(self, version: int) -> dict[str, float]:
        """Both divergences, per token; asked for version 0 it samples from the base, which version 0 is.

        The base is read once for both sides then, and both divergences are 0.
        """
        is_base = version == 0 and not self._base
        if is_base:
            self._base = await self._sample_base()
            self._write()
        if not self._base:
            raise CheckpointError(
                f"there are no completions of the base model, and weights {version} cannot make them; set "
                "evaluation.general='' or begin a new run."
            )
        student = [base.logprobs for base in self._base]
        if not is_base:
            student = await asyncio.gather(
                *(self._sampler.logprobs(base.prompt_tokens, base.completion_tokens) for base in self._base)
            )
        pairs = zip(
            (lp for base in self._base for lp in base.logprobs), (lp for lps in student for lp in lps), strict=True
        )
        base_student, student_base = divergences(pairs)
        return {"retention/base_student_kl_nats": base_student, "retention/student_base_kl_nats": student_base}

    async def _sample_base(self) -> list[BaseCompletion]:
        """A prompt's seed depends on its place alone, so runs of other seeds can be compared.

        All are written before the first is read: an engine on a CPU took minutes for both at once.
        """
        completions = await asyncio.gather(
            *(
                self._sampler.sample(prompt.prompt_tokens, MAX_NEW_TOKENS, 1.0, 1.0, seed)
                for seed, prompt in enumerate(self._prompts)
            )
        )
        # Read like the student's, not as sampled: what the two ways differ by is no divergence.
        logprobs = await asyncio.gather(
            *(
                self._sampler.logprobs(prompt.prompt_tokens, completion)
                for prompt, completion in zip(self._prompts, completions, strict=True)
            )
        )
        return [
            BaseCompletion(
                step=0,
                example_id=prompt.example_id,
                prompt_tokens=prompt.prompt_tokens,
                completion_tokens=completion,
                logprobs=read,
            )
            for prompt, completion, read in zip(self._prompts, completions, logprobs, strict=True)
        ]

    def _write(self) -> None:
        write_lines(self._file, [asdict(base) for base in self._base])


def divergences(logprobs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The estimates of KL(q || p) and KL(p || q) from pairs (log q(y), log p(y)), one a token, as their means."""
    terms = [_terms(of_student - of_base) for of_base, of_student in logprobs]
    forward, reverse = zip(*terms, strict=True)
    return math.fsum(forward) / len(terms), math.fsum(reverse) / len(terms)


def _terms(log_ratio: float) -> tuple[float, float]:
    """The integrands r - 1 - log r and r log r - (r - 1).

    `expm1`, because near r = 1 both are differences of nearly equal numbers.
    """
    excess = math.expm1(log_ratio)  # r - 1
    weighted = (1 + excess) * log_ratio if log_ratio > -math.inf else 0.0  # its limit for r -> 0
    return max(0.0, excess - log_ratio), max(0.0, weighted - excess)  # 0 is where rounding may pass it


def read_base(folder: Path, prompts: Sequence[GeneralPrompt]) -> list[BaseCompletion]:
    """The base model's completions in the folder of a run that is to be resumed.

    Raises:
        CheckpointError: they are missing, or belong to other prompts.
    """
    path = folder / RETENTION_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: it holds what the base model wrote before training, which the resumed weights cannot "
            "write any more. Put it back, or go on without this measurement by evaluation.general=''."
        )
    base = [
        BaseCompletion(
            step=line["step"],
            example_id=line["example_id"],
            prompt_tokens=tuple(line["prompt_tokens"]),
            completion_tokens=tuple(line["completion_tokens"]),
            logprobs=tuple(line["logprobs"]),
        )
        for line in lines_until(path, 0)
    ]
    if [(line.example_id, line.prompt_tokens) for line in base] != [tuple(prompt) for prompt in prompts]:
        raise CheckpointError(
            f"{path} holds completions of other prompts than evaluation.general names; set evaluation.general, "
            "data.system and the chat template as they were, or evaluation.general='' to go on without."
        )
    return base
