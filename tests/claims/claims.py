"""The paper's claims as comparisons of arms on the same questions, and what counts as confirmed."""

from dataclasses import dataclass, field
from enum import Enum

from sdft_ray.statistics import Interval, mean_interval, paired_bootstrap
from tests.claims.measured import BASE_KL, Measured, Questions

FACTS = ("taught", "paraphrased", "indirect")
NEW, INDIRECT, PRIOR = "new facts", "indirect questions", "prior knowledge"
SETS = {NEW: FACTS, INDIRECT: ("indirect",), PRIOR: ("prior",)}


class When(Enum):
    """Which accuracy of a run is meant."""

    END = "after training"
    CHANGE = "after training less before it"
    KEPT = "after the last stage less after the first"


class Verdict(Enum):
    """What was seen of a claim."""

    CONFIRMED = "confirmed"  # the whole interval lies on the expected side of the least difference
    NOT_SEEN = "not seen"  # the whole interval lies on the other side of zero
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence of the paper."""

    name: str
    text: str
    paper: str  # its figures
    better: str  # an arm
    worse: str = ""  # the arm it is compared with; "" compares with nothing, which fits a change
    asked: str = NEW
    when: When = When.END
    at_least: float = 0.0  # the difference's interval has to lie above this
    metric: str = ""  # of whole runs, of which less is better; "" for accuracies


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A claim with what was measured of it."""

    claim: Claim
    arms: dict[str, Interval]  # each arm's own value, with its interval over questions
    seeds: dict[str, tuple[float, ...]] = field(default_factory=dict)  # and that of each of its runs
    difference: Interval
    verdict: Verdict


CLAIMS = (
    Claim(
        name="learns",
        text="SDFT learns the new task better than SFT.",
        paper="70.2 against 66.2 % (science), 70.6 against 63.2 % (tool use)",
        better="sdft_paper",
        worse="sft",
    ),
    Claim(
        name="generalises",
        text="What SDFT has learned answers indirect questions better than what SFT has.",
        paper="98 against 80 % (knowledge, out of distribution)",
        better="sdft_paper",
        worse="sft",
        asked=INDIRECT,
    ),
    Claim(
        name="forgets_less_than_sft",
        text="After SDFT more of the prior capabilities is left than after SFT.",
        paper="64.5 against 53.4 % (science)",
        better="sdft_paper",
        worse="sft",
        asked=PRIOR,
    ),
    Claim(
        name="reverse_kl_forgets_less_than_sft",
        text="The same with the paper's own objective, reverse KL.",
        paper="not measured: its numbers were made with forward KL",
        better="sdft",
        worse="sft",
        asked=PRIOR,
    ),
    Claim(
        name="forgets_less_than_dft",
        text="After SDFT more of the prior capabilities is left than after DFT.",
        paper="64.5 against 60.2 % (science)",
        better="sdft_paper",
        worse="dft",
        asked=PRIOR,
    ),
    Claim(
        name="forgets_nothing",
        text="SDFT costs no prior capability (here: less than five points).",
        paper="65.4 after against 65.5 % before (tool use)",
        better="sdft_paper",
        asked=PRIOR,
        when=When.CHANGE,
        at_least=-0.05,
    ),
    Claim(
        name="stays_close",
        text="The model that SDFT has trained is closer to the one it began as than the one that SFT has trained.",
        paper="SFT ends 1.26 nats from the base model; the teacher that SDFT follows is 0.68 from it",
        better="sdft_paper",
        worse="sft",
        asked="general prompts",
        metric=BASE_KL,
    ),
    Claim(
        name="learns_more_than_dft",
        text="SDFT learns the new task better than DFT.",
        paper="70.2 against 54.8 % (science)",
        better="sdft_paper",
        worse="dft",
    ),
    Claim(
        name="on_policy",
        text="The student's own samples teach better than the teacher's.",
        paper="about 70 against about 63 %",
        better="sdft_paper",
        worse="offline_distillation",
    ),
    Claim(
        name="distribution",
        text="The teacher's distribution on its samples teaches better than the samples' tokens.",
        paper="about 63 against about 61 %",
        better="offline_distillation",
        worse="teacher_sft",
    ),
    Claim(
        name="forward_kl",
        text="Forward KL works best in practice.",
        paper="every number of the paper was made with it",
        better="sdft_paper",
        worse="sdft",
    ),
    Claim(
        name="stages",
        text="Of a first task SDFT keeps more than SFT while it learns a second.",
        paper="a curve: SFT falls back at once, SDFT stays",
        better="stages_sdft",
        worse="stages_sft",
        when=When.KEPT,
    ),
    Claim(
        name="context_both_over_text",
        text="A teacher that sees text and demonstration is better than one that sees the text.",
        paper="89 against 75 %",
        better="both",
        worse="text",
    ),
    Claim(
        name="context_text_over_demonstration",
        text="A teacher that sees the text is better than one that sees the demonstration.",
        paper="75 against 37 %",
        better="text",
        worse="ema",
    ),
    Claim(
        name="weights_ema_over_frozen",
        text="A moving average teaches better than frozen weights.",
        paper="about 70 against about 65 %",
        better="ema",
        worse="frozen",
    ),
    Claim(
        name="weights_frozen_over_live",
        text="Frozen weights teach better than the student's live ones, which collapse.",
        paper="about 65 against 33 %",
        better="frozen",
        worse="live",
    ),
)


def examine(claim: Claim, measured: dict[str, Measured]) -> Finding | None:
    """What was measured of a claim; None while an arm of it has no finished run."""
    names = [claim.better, *([claim.worse] if claim.worse else [])]
    if any(name not in measured for name in names):
        return None
    if claim.metric:
        return _of_runs(claim, measured)
    questions = {name: _asked(measured[name], claim) for name in names}
    better = questions[claim.better].means
    worse = questions[claim.worse].means if claim.worse else dict.fromkeys(better, 0.0)
    difference = _interval(worse, better)
    return Finding(
        claim=claim,
        arms={name: _interval(dict.fromkeys(own.means, 0.0), own.means) for name, own in questions.items()},
        seeds={name: own.by_seed for name, own in questions.items()},
        difference=difference,
        verdict=_verdict(difference, claim.at_least),
    )


def _of_runs(claim: Claim, measured: dict[str, Measured]) -> Finding:
    """A metric that is one number a run: its interval is one over seeds, which a single seed does not have."""
    seeds = {name: measured[name].by_seed(claim.metric) for name in (claim.better, claim.worse)}
    difference = mean_interval([more - less for less, more in zip(*seeds.values(), strict=False)])
    return Finding(
        claim=claim,
        arms={name: mean_interval(values) for name, values in seeds.items()},
        seeds=seeds,
        difference=difference,
        verdict=_verdict(difference, claim.at_least),
    )


def _asked(arm: Measured, claim: Claim) -> Questions:
    sets = SETS[claim.asked]
    if claim.when is When.END:
        return arm.at_end(sets)
    return arm.changed(sets) if claim.when is When.CHANGE else arm.kept(sets)


def _interval(before: dict[str, float], after: dict[str, float]) -> Interval:
    """Over the questions that both were asked."""
    common = [name for name in before if name in after]
    return paired_bootstrap([before[name] for name in common], [after[name] for name in common])


def _verdict(difference: Interval, at_least: float) -> Verdict:
    if difference.low > at_least:
        return Verdict.CONFIRMED
    return Verdict.NOT_SEEN if difference.high < 0 else Verdict.UNDECIDED
