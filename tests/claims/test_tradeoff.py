"""The demo's picture shows the figures that are kept, each way of training and each seed."""

import json

from tests.claims.tradeoff import JSON, PICTURE, draw


def test_the_demos_picture_is_that_of_the_kept_figures() -> None:
    record = json.loads(JSON.read_text())
    drawn = draw(record)
    assert PICTURE.read_text() == drawn
    for curve in record["curves"]:
        assert (curve["label"] in drawn) == curve["shown"]
        assert drawn.count(f"<title>{curve['label']}: step") == sum(
            len(points) - 1 for points in curve["seeds"] if curve["shown"]
        )
