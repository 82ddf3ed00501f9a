"""docs/claims.svg: what each arm has learned against what is left of prior knowledge, as the report draws it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdft_ray.report.legend import standalone
from sdft_ray.report.pareto import Spot, pareto_chart
from sdft_ray.report.sections import Figure
from sdft_ray.statistics import Interval
from tests.claims.claims import NEW, PRIOR, When

TITLE = "Learned and kept after training"
NAMES = {"sdft_paper": "SDFT, forward KL", "sdft": "SDFT, reverse KL", "sft": "SFT", "dft": "DFT"}


def draw(records: Sequence[Mapping[str, Any]]) -> str:
    """The picture as SVG, of the arms of `NAMES` that both questions were asked of.

    Args:
        records: as docs/claims.json has them.
    """
    new, prior = (_by_arm(records, asked) for asked in (NEW, PRIOR))
    names = [name for name in NAMES if name in new and name in prior]
    spots = [
        Spot(
            label=NAMES[name],
            index=index,
            new=_interval(new[name]),
            prior=_interval(prior[name]),
            runs=tuple(zip(new[name]["by_seed"], prior[name]["by_seed"], strict=True)),
        )
        for index, name in enumerate(names)
    ]
    chart = pareto_chart(TITLE, spots, new_name="new facts right", prior_name="prior knowledge right")
    return standalone(Figure(name="claims", drawing=chart), [])[0] + "\n"  # a legend would repeat the labels


def _by_arm(records: Sequence[Mapping[str, Any]], asked: str) -> dict[str, Any]:
    """The answers to one kind of question after training, by arm."""
    of_kind = [record for record in records if (record["asked"], record["when"]) == (asked, When.END.value)]
    return {name: arm for record in of_kind for name, arm in record["arms"].items()}


def _interval(arm: Mapping[str, Any]) -> Interval:
    return Interval(**{key: value for key, value in arm.items() if key != "by_seed"})
