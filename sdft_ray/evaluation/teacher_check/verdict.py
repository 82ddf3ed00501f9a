"""What follows from a comparison: whether the model can use the demonstrations, which template, and what to set."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.evaluation.teacher_check.measure import Comparison, Measured, rank
from sdft_ray.statistics import Interval, mcnemar, mean_interval, paired_bootstrap

ERROR_RATE = 0.05  # of the verdict's intervals: 95 % confidence


class Usable(Enum):
    """Whether the model can use the demonstrations."""

    YES = auto()  # it does better with its example's demonstration than alone, and than with a wrong one
    NO = auto()  # it does worse with its example's demonstration than alone, or than with a wrong one
    UNDECIDED = auto()  # an interval holds 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """How much better the same examples go under one prompt than under another."""

    measure: str  # "accuracy", or "logprob" [nats per token of the demonstration] where too few examples have answers
    before: float
    after: float
    interval: Interval  # of the mean difference over examples
    level: float  # of that interval
    sign: int  # 1 better, -1 worse, 0 undecided


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Will this model learn from these demonstrations, and shown how?"""

    usable: Usable
    gain: Gain  # of the best template over the student
    content: Gain  # of the best template over the same with wrong demonstrations
    best: str
    decided_by: str  # what the best template leads in
    second: str  # "" where there is only one template
    lead: Gain | None  # over the second


def judge(comparison: Comparison, *, seed: int) -> Verdict:
    """Judges a comparison; `seed` is that of the bootstrap.

    The best template is chosen on the examples it is judged by, so the gain's interval is made for that many
    comparisons at once (Bonferroni): its level is 1 - 0.05 / templates.
    """
    teachers, best = comparison.teachers, comparison.best
    taught = teachers[best]
    gain = compare(comparison.student, taught, level=1 - ERROR_RATE / len(teachers), seed=seed)
    content = compare(comparison.wrong, taught, level=1 - ERROR_RATE, seed=seed)
    second = max((name for name in teachers if name != best), key=lambda name: rank(teachers[name]), default="")
    lead, decided_by = None, gain.measure
    if second:
        if rank(teachers[second])[0] == rank(taught)[0]:
            decided_by = "logprob"
        lead = compare(teachers[second], taught, level=1 - ERROR_RATE, seed=seed, measure=decided_by)
    usable = Usable.UNDECIDED
    if gain.sign < 0 or content.sign < 0:
        usable = Usable.NO
    elif gain.sign > 0 and content.sign > 0:
        usable = Usable.YES
    return Verdict(
        usable=usable, gain=gain, content=content, best=best, decided_by=decided_by, second=second, lead=lead
    )


def compare(before: Measured, after: Measured, *, level: float, seed: int, measure: str = "") -> Gain:
    """The paired difference of two kinds of prompts over the same examples.

    Accuracies are compared by the bootstrap, and only with an exact McNemar test that agrees: of a handful of examples
    that all change alike, the bootstrap draws nothing else and would be sure. Logprobs are compared by Student's t.

    Args:
        before: the one.
        after: the other.
        level: of the interval.
        seed: of the bootstrap.
        measure: "accuracy" or "logprob"; "" takes accuracy where there are answers.
    """
    measure = measure or ("accuracy" if after.right else "logprob")
    if measure == "accuracy":
        interval = paired_bootstrap(before.right, after.right, seed=seed, level=level)
        sure = mcnemar(before.right, after.right) <= 1 - level
        means = before.accuracy.mean, after.accuracy.mean
    else:
        changes = [later - earlier for earlier, later in zip(before.logprobs, after.logprobs, strict=True)]
        interval, sure = mean_interval(changes, level), True
        means = before.logprob.mean, after.logprob.mean
    sign = (interval.low > 0) - (interval.high < 0) if sure else 0
    return Gain(measure=measure, before=means[0], after=means[1], interval=interval, level=level, sign=sign)
