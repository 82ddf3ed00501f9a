"""docs/demo.svg: what is learned against what is kept, along training; `python -m tests.claims.tradeoff` draws it.

The figures stand in docs/demo.json: for each way of training its curves, one a seed, and on each a point for every step
that was evaluated. Shares are fractions of 1.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sdft_ray.report.axes import Form
from sdft_ray.report.frame import HEIGHT, WIDTH, Frame, draw_frame
from sdft_ray.report.legend import standalone
from sdft_ray.report.palette import look, marker
from sdft_ray.report.sections import Figure
from sdft_ray.report.svg import Drawing, element, polyline, text, tooltip
from tests.benchmarks.processes import ROOT

JSON, PICTURE = (ROOT / "docs" / f"demo.{kind}" for kind in ("json", "svg"))
TITLE = "Learned and kept, step by step"
LEGEND_ROW = 16.0
Point = Mapping[str, float]


def draw(record: Mapping[str, Any]) -> str:
    """The picture as SVG.

    Args:
        record: as docs/demo.json has it.
    """
    shown = [curve for curve in record["curves"] if curve["shown"]]
    every = [point for curve in shown for points in curve["seeds"] for point in points]
    kept = [point["prior"] for point in every]
    low, high = (math.floor(10 * min(kept)) / 10, math.ceil(10 * max(kept)) / 10)
    frame = draw_frame(
        (0.0, 1.0),
        (low, high),
        x_form=Form.SHARE,
        y_form=Form.SHARE,
        x_name="taught facts right, asked in other words",
        y_name="prior knowledge right",
    )
    before = shown[0]["seeds"][0][0]
    parts = [frame.body, _before(frame, before["prior"])]
    parts += [_curve(frame, curve, index) for index, curve in enumerate(shown)]
    parts += [_key(curve["label"], index) for index, curve in enumerate(shown)]
    described = "; ".join(_described(curve) for curve in shown)
    height = HEIGHT + LEGEND_ROW * (len(shown) + 0.5)
    drawing = Drawing(title=TITLE, description=f"{described}.", width=WIDTH, height=height, body="".join(parts))
    return standalone(Figure(name="demo", drawing=drawing, has_arms=False), [])[0] + "\n"


def _before(frame: Frame, prior: float) -> str:
    level = frame.y(prior)
    line = element("line", x1=frame.x(0.0), x2=frame.x(1.0), y1=level, y2=level, class_="border")
    return line + element("circle", cx=frame.x(0.0), cy=level, r=4.5, class_="hollow")


def _curve(frame: Frame, curve: Mapping[str, Any], index: int) -> str:
    return element(
        "g", *(_seed(frame, curve["label"], points, index) for points in curve["seeds"]), class_=look(index).colour
    )


def _seed(frame: Frame, label: str, points: Sequence[Point], index: int) -> str:
    """One run: its line from before training on, and a mark for each later evaluation."""
    drawn = look(index)
    places = [(frame.x(point["paraphrased"]), frame.y(point["prior"])) for point in points]
    parts = [polyline(places, class_="line", stroke_dasharray=drawn.dash)]
    for (x, y), point in zip(places[1:], points[1:], strict=True):
        parts.append(element("g", tooltip(f"{label}: {_written(point)}"), marker(drawn.marker, x, y, class_="mark")))
    return "".join(parts)


def _key(label: str, index: int) -> str:
    drawn, y = look(index), HEIGHT + LEGEND_ROW * (index + 0.75)
    line = polyline([(8, y), (38, y)], class_="line", stroke_dasharray=drawn.dash)
    return element("g", line, marker(drawn.marker, 23, y, class_="mark"), class_=drawn.colour) + text(
        46, y + 4, label, class_="label"
    )


def _described(curve: Mapping[str, Any]) -> str:
    return f"{curve['label']}: " + ", then ".join(_written(points[-1]) for points in curve["seeds"])


def _written(point: Point) -> str:
    taught, paraphrased, prior = (Form.SHARE.write(point[key]) for key in ("taught", "paraphrased", "prior"))
    step = Form.COUNT.write(point["step"])
    return f"step {step}, taught {taught}, in other words {paraphrased}, prior {prior}"


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(JSON.read_text())))
