"""Paired comparisons: two arms, or one arm before and after training, on the very same questions.

What is resampled is the question. With several seeds it counts once, with its mean over them, and not once a seed: two
answers to one question are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from sdft_ray.errors import ConfigError
from sdft_ray.report.answers import Answers, SetAnswers, read_answers
from sdft_ray.report.arms import Arm
from sdft_ray.report.runs import Run
from sdft_ray.statistics import Interval, holm, mcnemar, paired_bootstrap

MAX_ARMS_IN_PAIRS = 3  # of more arms, all others are compared with the reference only

Pair = tuple[Answers, Answers]  # of a run of the reference and one of the arm, or of one run before and after training
ModelInputs = Mapping[str, Mapping[str, SetAnswers]]  # by name of the run and by set


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """An arm against its reference on one evaluation set."""

    set_name: str
    arm: Arm
    reference: Arm | None  # None for the arm itself before training
    num_seeds: int
    before: float  # accuracy of the reference on the shared questions, 0 to 1
    after: float  # of the arm
    change: Interval  # after - before; no bounds where all questions changed alike
    num_gained: int  # questions whose mean over the seeds rose
    num_lost: int
    num_unscored: int  # shared questions left out because an answer could not be scored
    num_unmatched: int  # questions left out because not all runs were asked them
    p: float  # McNemar's; NaN with several seeds
    p_holm: float = math.nan  # the same, corrected for all tests against arms, or all against before training


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """All comparisons of a page."""

    arms: tuple[Comparison, ...]  # after training, against another arm
    training: tuple[Comparison, ...]  # against the same runs before training
    without_pairs: tuple[tuple[Arm, Arm, str], ...]  # reference, arm and set that were both asked, but share nothing


def paired_comparisons(arms: Sequence[Arm], reference: Arm, sets: Sequence[str]) -> Paired:
    """Compares what has answers.

    Raises:
        DataError: a line of an answers.jsonl is broken.
    """
    asked = {run.name: read_answers(run, sets) for arm in arms for run in arm.final_runs}
    between, within, without = [], [], []
    for name in sets:
        for base, arm in pairs_of(arms, reference):
            pairs = [
                (asked[one.name][name].after, asked[other.name][name].after) for one, other in _same_seeds(base, arm)
            ]
            compared = compare(pairs, name, arm, base)
            if compared is not None:
                between.append(compared)
            elif _is_asked(asked, base, name) and _is_asked(asked, arm, name):
                without.append((base, arm, name))
        for arm in arms:
            pairs = [(asked[run.name][name].before, asked[run.name][name].after) for run in arm.final_runs]
            if (compared := compare(pairs, name, arm, None)) is not None:
                within.append(compared)
    return Paired(arms=_corrected(between), training=_corrected(within), without_pairs=tuple(without))


def compare(pairs: Sequence[Pair], set_name: str, arm: Arm, reference: Arm | None) -> Comparison | None:
    """Compares the questions that all runs were asked, and whose answers could all be scored; None without one."""
    pairs = [pair for pair in pairs if all(pair)]  # a run without answers is no pair
    sides = [side for pair in pairs for side in pair]
    known = dict.fromkeys(example_id for side in sides for example_id in side)
    shared = [one for one in known if all(one in side and side[one].gold == sides[0][one].gold for side in sides)]
    scored = [one for one in shared if all(side[one].right is not None for side in sides)]
    if not scored:
        return None
    before = [sum(bool(earlier[one].right) for earlier, _ in pairs) for one in scored]
    after = [sum(bool(later[one].right) for _, later in pairs) for one in scored]
    change = paired_bootstrap([right / len(pairs) for right in before], [right / len(pairs) for right in after])
    if len({later - earlier for earlier, later in zip(before, after, strict=True)}) == 1:
        # All means of questions that changed alike are the same: the bounds would claim to be certain.
        change = replace(change, low=math.nan, high=math.nan)
    return Comparison(
        set_name=set_name,
        arm=arm,
        reference=reference,
        num_seeds=len(pairs),
        before=fmean(before) / len(pairs),
        after=fmean(after) / len(pairs),
        change=change,
        num_gained=sum(later > earlier for earlier, later in zip(before, after, strict=True)),
        num_lost=sum(later < earlier for earlier, later in zip(before, after, strict=True)),
        num_unscored=len(shared) - len(scored),
        num_unmatched=len(known) - len(shared),
        p=mcnemar(list(map(bool, before)), list(map(bool, after))) if len(pairs) == 1 else math.nan,
    )


def pairs_of(arms: Sequence[Arm], reference: Arm) -> list[tuple[Arm, Arm]]:
    """Which arm is compared with which: the one it is compared with, first the reference, stands first."""
    others = [arm for arm in arms if arm.index != reference.index]
    pairs = [(reference, arm) for arm in others]
    return pairs + (list(combinations(others, 2)) if len(arms) <= MAX_ARMS_IN_PAIRS else [])


def reference_of(arms: Sequence[Arm], named: str) -> Arm:
    """The arm of report.reference: called so, or with a run of that name or folder; the first where none is named.

    Raises:
        ConfigError: there is no such arm.
    """
    if not named:
        return arms[0]
    for arm in arms:
        if named == arm.label or any(named == run.name or Path(named).resolve() == run.folder for run in arm.runs):
            return arm
    labels = "; ".join(arm.label for arm in arms)
    raise ConfigError("report.reference", named, "is neither an arm nor a run", f"choose from: {labels}")


def _same_seeds(base: Arm, arm: Arm) -> list[tuple[Run, Run]]:
    """The runs of both arms with the same seed; of several with one seed, the first with the first and so on."""
    by_seed: dict[str, list[Run]] = {}
    for run in base.final_runs:
        by_seed.setdefault(str(run.seed), []).append(run)
    return [(by_seed[str(run.seed)].pop(0), run) for run in arm.final_runs if by_seed.get(str(run.seed))]


def _is_asked(asked: ModelInputs, arm: Arm, set_name: str) -> bool:
    return any(asked[run.name][set_name].after for run in arm.final_runs)


def _corrected(compared: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """With Holm's correction over all of them that were tested."""
    tested = [one for one in compared if not math.isnan(one.p)]
    corrected = iter(holm([one.p for one in tested]))
    return tuple(one if math.isnan(one.p) else replace(one, p_holm=next(corrected)) for one in compared)
