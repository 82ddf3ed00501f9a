from dataclasses import replace

from sdft_ray.records import NUM_SHOWN, SampleReport, TopTokens
from sdft_ray.tracking.disagreements import disagreement_rows
from tests.fakes import make_views


def sample(*divergence: float, scored: bool = True, tops: tuple[TopTokens, ...] = ()) -> SampleReport:
    return SampleReport(
        example_id="a",
        epoch=0,
        weight_version=0,
        prompt_tokens=(1,),
        completion_tokens=tuple(range(100, 100 + len(divergence))),
        num_counted=1,
        views=replace(make_views(divergence, scored), tops=tops),
        copied_share=0.0,
        truncated=False,
    )


def decode(tokens: tuple[int, ...]) -> str:
    return "-".join(map(str, tokens))


def test_the_largest_come_first_and_no_more_than_a_few_are_shown() -> None:
    rows = disagreement_rows(sample(0.0, 3.0, 1.0, 0.5, 2.0, 0.25, 4.0), decode)
    assert [row["position"] for row in rows] == [6, 1, 4, 2, 3]
    assert len(rows) == NUM_SHOWN


def test_a_row_quotes_both_sides_and_what_they_prefer() -> None:
    tops = (TopTokens(position=1, student=(7, -0.5), teacher=(8, -0.25)),)
    first, second = disagreement_rows(sample(0.5, 2.0, tops=tops), decode)
    assert first == {
        "position": 1, "token": "101", "divergence": 2.0, "student_logprob": -2.0, "teacher_logprob": -4.0,
        "student_top": "7", "student_top_logprob": -0.5, "teacher_top": "8", "teacher_top_logprob": -0.25,
    }  # fmt: skip
    assert second["student_top"] is second["teacher_top_logprob"] is None


def test_equal_divergences_keep_the_order_of_the_text_and_a_short_completion_shows_all() -> None:
    assert [row["position"] for row in disagreement_rows(sample(1.0, 1.0), decode)] == [0, 1]


def test_where_nothing_was_scored_there_is_no_teacher_to_quote() -> None:
    tops = (TopTokens(position=0, student=(7, -0.5), teacher=None),)
    (row,) = disagreement_rows(sample(1.0, scored=False, tops=tops), decode)
    assert row["teacher_logprob"] is row["teacher_top"] is row["teacher_top_logprob"] is None
    assert row["student_top"] == "7"
