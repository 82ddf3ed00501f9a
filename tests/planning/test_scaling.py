"""docs/scaling.md is what the planner predicts today."""

from tests.planning.scaling import PAGE, page


def test_the_page_is_up_to_date_and_says_that_it_predicts() -> None:
    text = page()
    assert PAGE.read_text() == text, "run python -m tests.planning.scaling"
    assert "**Nothing on this page was run.**" in text
