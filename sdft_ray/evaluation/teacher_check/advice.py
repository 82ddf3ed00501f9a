"""The verdict in sentences, and the settings that follow from it."""

from collections.abc import Iterator
from dataclasses import dataclass

from sdft_ray.config.validation import template_label
from sdft_ray.evaluation.teacher_check.measure import Comparison
from sdft_ray.evaluation.teacher_check.sample import STUDENT
from sdft_ray.evaluation.teacher_check.verdict import ERROR_RATE, Gain, Usable, Verdict, compare

ALREADY_RIGHT = 0.9  # accuracy of the student from which on there is little left to teach
OFTEN_CUT = 0.1  # share of cut answers from which on accuracies say little
OFTEN_COPIED = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Current:
    """The settings that advice is about, as they are."""

    template: str  # teacher.template
    max_new_tokens: int  # check.max_new_tokens


def sentences(comparison: Comparison, verdict: Verdict, now: Current) -> list[str]:
    """The verdict as a person reads it, then what may have spoilt it."""
    return [
        _usable(verdict),
        _content(verdict),
        *_pools(comparison, verdict),
        *_best(verdict),
        *_more_likely(comparison, verdict),
        *_way_out(comparison, verdict),
        *_doubts(comparison, verdict, now),
    ]


def settings(comparison: Comparison, verdict: Verdict, now: Current) -> list[str]:
    """What to change, as the command line takes it; empty where everything may stay."""
    changes = []
    if verdict.best != now.template:
        changes.append(f"teacher.template={verdict.best}")
    for lengths in (comparison.sample.lengths[STUDENT], comparison.sample.lengths[verdict.best]):
        if lengths.num_over:
            changes.append(f"{lengths.key}={lengths.longest}")
    longest = max(len(probe.demonstration_tokens) for probe in comparison.sample.probes)
    if _cut_share(comparison, verdict) > OFTEN_CUT and longest > now.max_new_tokens:
        changes.append(f"check.max_new_tokens={longest}")
    num_asked = len(comparison.sample.probes)
    if verdict.usable is Usable.UNDECIDED and num_asked < comparison.sample.num_available:
        changes.append(f"check.num_examples={min(4 * num_asked, comparison.sample.num_available)}")
    return changes


def _usable(verdict: Verdict) -> str:
    gain = verdict.gain
    shown = f"{_value(gain, gain.before)} alone, {_value(gain, gain.after)} with {template_label(verdict.best)}"
    start = {
        1: "The model does better with the demonstration",
        0: "Undecided whether the demonstrations help the model",
        -1: "The model does worse with the demonstration than without",
    }[gain.sign]
    if verdict.usable is Usable.YES:
        start = "The model can use the demonstrations"
    return f"{start}: {shown}, {_difference(gain)}."


def _content(verdict: Verdict) -> str:
    content = verdict.content
    shown = f"With another example's demonstration {_value(content, content.before)}"
    reason = {
        1: "so what the demonstration says is what counts",
        0: "so it is undecided whether what the demonstration says counts, or any would do",
        -1: "so the wrong demonstration serves better than the right one",
    }[content.sign]
    return f"{shown}: its own is better by {_difference(content)}, {reason}."


def _pools(comparison: Comparison, verdict: Verdict) -> Iterator[str]:
    """What other rows' demonstrations would teach in the place of the own."""
    own = comparison.teachers[verdict.best]
    for name, measured in comparison.pools.items():
        lead = compare(measured, own, level=1 - ERROR_RATE, seed=0)
        reason = {
            1: "so a pool teaches less than the rows' own demonstrations",
            0: "which does not tell the two apart",
            -1: "so the pool serves better: teacher.demonstrations=POOL",
        }[lead.sign]
        shown = _value(lead, lead.before)
        yield f"With the pool's demonstrations by {name} {shown}: its own is better by {_difference(lead)}, {reason}."


def _best(verdict: Verdict) -> Iterator[str]:
    if verdict.lead is None:
        return
    lead = verdict.lead
    best, second = template_label(verdict.best), template_label(verdict.second)
    tie = " among those with the same accuracy" if verdict.decided_by != verdict.gain.measure else ""
    certain = "" if lead.sign > 0 else ", which does not tell the two apart"
    yield (
        f"The best template by {verdict.decided_by}{tie} is {best}: {_value(lead, lead.after)}, {second} "
        f"{_value(lead, lead.before)}, {_difference(lead)}{certain}."
    )


def _more_likely(comparison: Comparison, verdict: Verdict) -> Iterator[str]:
    """An accurate teacher may wrap its answers in words that no demonstration has, and would teach these as well."""
    taught = comparison.teachers[verdict.best]
    likeliest = max(comparison.teachers, key=lambda name: comparison.teachers[name].logprob.mean)
    other = comparison.teachers[likeliest]
    ahead = compare(taught, other, level=1 - ERROR_RATE, seed=0, measure="logprob")
    if likeliest != verdict.best and ahead.sign > 0:
        yield (
            f"Closer to the demonstrations is {template_label(likeliest)}: {_value(ahead, ahead.after)}, "
            f"{template_label(verdict.best)} {_value(ahead, ahead.before)}, {_difference(ahead)}; {other.num_cut} and "
            f"{taught.num_cut} of {len(taught.observations)} answers were cut. What the teacher adds to an answer is "
            "learned, too."
        )


def _way_out(comparison: Comparison, verdict: Verdict) -> Iterator[str]:
    student = comparison.student
    if student.right and student.accuracy.mean >= ALREADY_RIGHT:
        yield f"The student alone is right in {student.accuracy.mean:.1%} already: there is little left to teach."
    elif verdict.usable is not Usable.YES:
        yield (
            "A teacher that does not use its demonstration has nothing to teach: take a larger or an instruction-tuned "
            "model, shorter demonstrations or a template of your own, or method=sft, which needs no such teacher."
        )
    if verdict.gain.measure == "accuracy" and verdict.gain.sign == 0:
        taught = comparison.teachers[verdict.best]
        read = compare(student, taught, level=verdict.gain.level, seed=0, measure="logprob")
        if read.sign > 0:
            yield (
                f"The demonstration's logprob does rise, {_value(read, read.before)} to {_value(read, read.after)}: "
                "the model reads it, but its greedy answers do not show it."
            )


def _doubts(comparison: Comparison, verdict: Verdict, now: Current) -> Iterator[str]:
    sample, taught = comparison.sample, comparison.teachers[verdict.best]
    num_scored = sum(probe.gold is not None for probe in sample.probes)
    if not taught.right:
        yield (
            "Judged by the logprob of the demonstration, since there are no answers to score by (data.columns.answer); "
            "copying alone raises it."
        )
    elif num_scored < len(sample.probes):
        yield f"Only {num_scored} of {len(sample.probes)} examples have an answer; accuracies are of these."
    if failing := [probe.example_id for probe in sample.probes if not probe.passes]:
        yield (
            f"{len(failing)} of {num_scored} demonstrations would themselves not count as right (first: "
            f"{failing[0]}): look at check.match and at the answers before you believe the accuracies."
        )
    if (share := _cut_share(comparison, verdict)) > OFTEN_CUT:
        yield (
            f"{share:.1%} of the teacher's answers were cut at check.max_new_tokens={now.max_new_tokens}: "
            "accuracies may be too low."
        )
    if comparison.wrong.copied.mean >= OFTEN_COPIED:
        yield (
            f"Shown a wrong demonstration, the teacher copies it in {comparison.wrong.copied.mean:.1%}: it will teach "
            "the errors of the demonstrations, too."
        )
    for name, lengths in sample.lengths.items():
        if lengths.num_over:
            yield (
                f"{lengths.num_over} of {len(sample.probes) + sample.num_unreadable} prompts of "
                f"{template_label(name)} are over {lengths.key}={lengths.budget}, the longest has {lengths.longest} "
                "tokens: a run would refuse or skip them (data.too_long)."
            )
    if sample.num_unreadable:
        yield f"{sample.num_unreadable} examples were not asked: they are longer than the model reads."


def _cut_share(comparison: Comparison, verdict: Verdict) -> float:
    return comparison.teachers[verdict.best].num_cut / len(comparison.sample.probes)


def _value(gain: Gain, value: float) -> str:
    return f"{value:.1%} right" if gain.measure == "accuracy" else f"{value:.3f} nats per token"


def _difference(gain: Gain) -> str:
    scale, unit = (100, "points") if gain.measure == "accuracy" else (1, "nats")
    digits = 1 if scale == 100 else 3
    mean, low, high = (
        f"{scale * value:+.{digits}f}" for value in (gain.interval.mean, gain.interval.low, gain.interval.high)
    )
    return f"{mean} {unit} ({100 * gain.level:.3g} % interval {low} to {high})"
