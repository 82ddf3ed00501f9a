"""The verdict in sentences: right for every verdict, each doubt told, and settings one can use."""

from collections.abc import Mapping
from dataclasses import replace

from sdft_ray.evaluation.teacher_check.advice import Current, sentences, settings
from sdft_ray.evaluation.teacher_check.measure import Comparison, Measured
from sdft_ray.evaluation.teacher_check.sample import PromptLengths
from sdft_ray.evaluation.teacher_check.verdict import judge
from tests.evaluation.teacher_check.asked import comparison, half_right, measured, probe, sample_of

NOW = Current(template="short", max_new_tokens=4)


def right(num_right: int, logprob: float = -1.0) -> Measured:
    return half_right(num_right, 32, logprob)


def told(found: Comparison, now: Current = NOW) -> str:
    return "\n".join(sentences(found, judge(found, seed=0), now))


def to_set(found: Comparison, now: Current = NOW) -> list[str]:
    return settings(found, judge(found, seed=0), now)


def of(
    student: Measured, teacher: Measured, wrong: Measured, others: Mapping[str, Measured] | None = None
) -> Comparison:
    return comparison(student, {"short": teacher, **(others or {"long": right(0)})}, wrong)


def with_lengths(found: Comparison, **changes: int) -> Comparison:
    lengths = dict(found.sample.lengths)
    values = {"key": "data.max_teacher_prompt_tokens", "budget": 100, "longest": 50, "num_over": 0} | changes
    lengths["short"] = PromptLengths(**values)  # type: ignore[arg-type]
    return replace(found, sample=replace(found.sample, lengths=lengths))


def test_a_usable_demonstration_is_told_with_both_accuracies_and_its_interval() -> None:
    text = told(of(right(2), right(30), right(4)))
    assert (
        "The model can use the demonstrations: 6.2% right alone, 93.8% right with short, +87.5 points (97.5 %" in text
    )
    assert "With another example's demonstration 12.5% right" in text
    assert "so what the demonstration says is what counts" in text
    assert "method=sft" not in text


def test_an_undecided_verdict_says_so_and_how_to_find_out() -> None:
    found = of(right(10), right(12), right(9))
    text = told(found)
    assert text.startswith("Undecided whether the demonstrations help the model: 31.2% right alone, 37.5% right")
    assert "undecided whether what the demonstration says counts" in text
    assert "A teacher that does not use its demonstration has nothing to teach" in text
    more = replace(found, sample=replace(found.sample, num_available=1000))
    assert to_set(more) == ["check.num_examples=128"]
    assert to_set(replace(found, sample=replace(found.sample, num_available=40))) == ["check.num_examples=40"]
    assert to_set(found) == [], "all examples are asked already"


def test_a_harmful_demonstration_is_told() -> None:
    assert told(of(right(30), right(2), right(0))).startswith(
        "The model does worse with the demonstration than without"
    )


def test_a_gain_that_any_demonstration_gives_is_told() -> None:
    text = told(of(right(2), right(30), right(30)))
    assert text.startswith("The model does better with the demonstration: ")
    assert "or any would do" in text
    assert "the wrong demonstration serves better" in told(of(right(2), right(14), right(30)))


def test_a_student_that_knows_already_is_told() -> None:
    text = told(of(right(32), right(32), right(10)))
    assert "The student alone is right in 100.0% already: there is little left to teach." in text
    assert "method=sft" not in text


def test_a_rising_logprob_without_better_answers_is_told() -> None:
    text = told(of(right(10, -3.0), right(12, -0.5), right(9, -3.0)))
    assert "The demonstration's logprob does rise, -2.995 nats per token to -0.495 nats per token" in text


def test_the_best_template_is_told_with_the_second_and_what_decided_it() -> None:
    ahead = told(of(right(2), right(30), right(2), {"long": right(10)}))
    assert "The best template by accuracy is short: 93.8% right, long 31.2% right, +62.5 points" in ahead
    assert "does not tell the two apart" not in ahead
    assert "does not tell the two apart" in told(of(right(2), right(30), right(2), {"long": right(29)}))
    tied = told(of(right(2), right(30), right(2), {"long": right(30, -2.0)}))
    assert "The best template by logprob among those with the same accuracy is short: -0.995 nats per token" in tied


def test_a_template_closer_to_the_demonstrations_is_told_though_a_more_accurate_one_is_chosen() -> None:
    wordy, close = half_right(30, 32, -1.0, cut=True), right(20, -0.3)
    text = told(of(right(2), wordy, right(2), {"long": close}))
    assert "The best template by accuracy is short" in text
    assert "Closer to the demonstrations is long: -0.295 nats per token, short -0.995 nats per token, +0.700" in text
    assert "0 and 32 of 32 answers were cut" in text
    assert "Closer to the demonstrations" not in told(of(right(2), close, right(2), {"long": right(10)}))


def test_a_better_template_is_what_to_set() -> None:
    found = of(right(2), right(30), right(2))
    assert to_set(found) == []
    assert to_set(found, Current(template="long", max_new_tokens=4)) == ["teacher.template=short"]


def test_prompts_over_their_budget_are_told_with_the_budget_they_need() -> None:
    found = with_lengths(of(right(2), right(30), right(2)), budget=100, longest=321, num_over=5)
    assert "5 of 32 prompts of short are over data.max_teacher_prompt_tokens=100, the longest has 321 tokens" in told(
        found
    )
    assert to_set(found) == ["data.max_teacher_prompt_tokens=321"]


def test_answers_that_were_cut_are_told_and_given_room_where_that_would_help() -> None:
    cut = half_right(30, 32, -1.0, cut=True)
    found = of(right(2), cut, right(2))
    cramped = Current(template="short", max_new_tokens=1)
    assert "100.0% of the teacher's answers were cut at check.max_new_tokens=1" in told(found, cramped)
    assert to_set(found, cramped) == ["check.max_new_tokens=2"]
    assert to_set(found, Current(template="short", max_new_tokens=64)) == [], "it rambles on, more room would not help"


def test_without_answers_the_reader_is_told_what_was_judged() -> None:
    unscored = measured([None] * 8, [-1.0 + 0.01 * place for place in range(8)])
    better = measured([None] * 8, [-0.1 + 0.02 * place for place in range(8)])
    text = told(comparison(unscored, {"short": better, "long": unscored}, unscored))
    assert (
        "Judged by the logprob of the demonstration, since there are no answers to score by (data.columns.answer)"
        in text
    )
    assert "right alone" not in text


def test_examples_without_answers_among_others_are_counted() -> None:
    some = measured([True] * 8 + [None] * 4, [-1.0] * 12)
    none = measured([False] * 8 + [None] * 4, [-2.0] * 12)
    assert "Only 8 of 12 examples have an answer" in told(comparison(none, {"short": some}, none))


def test_demonstrations_the_scorer_would_not_pass_are_told() -> None:
    found = of(right(2), right(30), right(2))
    failing = [replace(probe(place), passes=place > 2) for place in range(32)]
    text = told(replace(found, sample=sample_of(failing)))
    assert "3 of 32 demonstrations would themselves not count as right (first: example-0)" in text


def test_a_teacher_that_copies_errors_is_told() -> None:
    copying = half_right(0, 32, -1.0, copied=True)
    assert "copies it in 100.0%: it will teach the errors" in told(of(right(2), right(30), copying))


def test_examples_that_could_not_be_asked_are_told() -> None:
    found = of(right(2), right(30), right(2))
    unread = replace(found, sample=replace(found.sample, num_unreadable=3))
    assert "3 examples were not asked: they are longer than the model reads." in told(unread)


def test_the_pools_demonstrations_are_held_against_the_own() -> None:
    def pooled(num_right: int) -> str:
        pools = {"BM25": right(num_right)}
        return told(comparison(right(2), {"short": right(20), "long": right(0)}, right(0), pools=pools))

    assert "With the pool's demonstrations by BM25 6.2% right: its own is better by +56.2 points" in pooled(2)
    assert "so a pool teaches less than the rows' own demonstrations" in pooled(2)
    assert "which does not tell the two apart" in pooled(19)
    assert "so the pool serves better: teacher.demonstrations=POOL" in pooled(32)
    assert "pool" not in told(of(right(2), right(20), right(0)))
