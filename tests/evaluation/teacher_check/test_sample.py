"""Which examples are drawn, what each is asked under, and what is refused before anything is started."""

import re
from dataclasses import replace
from typing import Any

import pytest

from sdft_ray.config import DataConfig, DemonstrationSource, Match, PoolConfig, TeacherConfig, TeacherContext
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.builtin import load
from sdft_ray.data.pool import Pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.evaluation.teacher_check.sample import STUDENT, CheckSample, PoolSource, draw_sample
from sdft_ray.examples import Example
from tests.data.families import QWEN_2_5, tokenizer_with
from tests.examples import load_examples
from tests.tiny import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
FACTS = load_examples("builtin:facts", "train", {}, "", 0)


def example(number: int, **changes: Any) -> Example:
    values = {
        "example_id": f"example-{number}",
        "prompt": (Message(role="user", content=f"Question {number}?"),),
        "demonstration": f"The answer is {number}.",
        "answer": str(number),
    }
    return Example(**(values | changes))


def draw(
    examples: list[Example],
    num_examples: int = 32,
    *,
    builders: dict[str, PromptBuilder] | None = None,
    **changes: Any,
) -> CheckSample:
    context = changes.get("context", TeacherContext.DEMONSTRATION)
    templates = changes.pop("templates", ["single_turn", "single_turn_short"])
    settings = {
        "num_examples": num_examples,
        "data": DataConfig(),
        "context": context,
        "match": Match.CONTAINS,
        "max_new_tokens": 8,
        "context_length": 4096,
        "seed": 0,
    }
    builders = builders or {
        name: PromptBuilder(TOKENIZER, TeacherConfig(template=name, context=context)) for name in templates
    }
    return draw_sample(examples, builders, **(settings | changes))


def test_the_seed_alone_says_which_examples_are_drawn() -> None:
    examples = [example(number) for number in range(50)]
    drawn = draw(examples, 10)
    ids = [probe.example_id for probe in drawn.probes]
    assert len(set(ids)) == 10
    assert (drawn.num_available, drawn.num_unreadable) == (50, 0)
    assert [probe.example_id for probe in draw(examples, 10).probes] == ids
    assert [probe.example_id for probe in draw(examples, 10, seed=1).probes] != ids


def test_the_control_shows_the_others_call_and_the_others_conversation_about_the_own_question() -> None:
    def turn(number: int) -> Message:
        call = ToolCall(name="look_up", arguments=f'{{"number": {number}}}')
        return Message(role="assistant", content="", tool_calls=(call,))

    def row(number: int, **changes: Any) -> Example:
        return example(number, demonstration=turn(number).text, demonstration_turn=turn(number), **changes)

    tokenizer = tokenizer_with(QWEN_2_5)
    builders = {"single_turn": PromptBuilder(tokenizer, TeacherConfig())}
    drawn = draw([row(1), row(2)], builders=builders)
    shown = [tokenizer.decode(probe.wrong_prompts["single_turn"]) for probe in drawn.probes]
    assert ['{"number": 2}' in shown[0], '{"number": 1}' in shown[1]] == [True, True]
    own = [
        row(n, teacher_messages=(Message(role="user", content=f"Question {n}? The oracle says {n}{n}."),))
        for n in (1, 2)
    ]
    drawn = draw(own, builders=builders)
    shown = [tokenizer.decode(probe.wrong_prompts["single_turn"]) for probe in drawn.probes]
    assert "Question 1? The oracle says 22." in shown[0] and "Question 2? The oracle says 11." in shown[1]


def test_more_than_there_are_takes_all() -> None:
    assert len(draw([example(number) for number in range(5)], 1000).probes) == 5


def test_every_example_is_asked_plainly_with_its_demonstration_and_with_anothers() -> None:
    drawn = draw([example(number) for number in range(6)])
    by_id = {probe.example_id: probe for probe in drawn.probes}
    for probe in drawn.probes:
        wrong = by_id[probe.wrong_id]
        assert probe.gold is not None
        question = f"Question {probe.gold.answer}?"
        assert probe.demonstration not in TOKENIZER.decode(probe.prompt_tokens)
        assert set(probe.teacher_prompts) == set(probe.wrong_prompts) == {"single_turn", "single_turn_short"}
        for right, misled in zip(probe.teacher_prompts.values(), probe.wrong_prompts.values(), strict=True):
            assert question in TOKENIZER.decode(right) and probe.demonstration in TOKENIZER.decode(right)
            assert question in TOKENIZER.decode(misled) and wrong.demonstration in TOKENIZER.decode(misled)
            assert probe.demonstration not in TOKENIZER.decode(misled)
        assert probe.wrong_demonstration_tokens == wrong.demonstration_tokens


def test_nobody_is_their_own_partner_and_each_is_partner_once() -> None:
    for seed in range(5):
        drawn = draw([example(number) for number in range(9)], seed=seed)
        ids = {probe.example_id for probe in drawn.probes}
        assert all(probe.wrong_id != probe.example_id for probe in drawn.probes)
        assert {probe.wrong_id for probe in drawn.probes} == ids


def test_a_wrong_demonstration_never_gives_the_right_answer() -> None:
    """Several wordings of the built-in facts share a demonstration, and several facts an answer."""
    assert len(load("facts", "train")) == len(FACTS)
    by_id = {fact.example_id: fact for fact in FACTS}
    for probe in draw(FACTS, len(FACTS)).probes:
        assert not probe.finds_right(by_id[probe.wrong_id].demonstration, Match.CONTAINS)
        assert probe.finds_right(by_id[probe.example_id].demonstration, Match.CONTAINS)


def test_where_the_teacher_sees_a_text_the_wrong_one_is_another() -> None:
    shared = [example(number, text=f"Article {number // 2}.") for number in range(8)]
    by_id = {row.example_id: row for row in shared}
    for probe in draw(shared, context=TeacherContext.TEXT_AND_DEMONSTRATION).probes:
        assert by_id[probe.wrong_id].text != by_id[probe.example_id].text


def test_data_in_which_all_demonstrations_are_the_same_is_refused() -> None:
    same = [example(number, demonstration="Yes.", answer="yes") for number in range(4)]
    message = "check.num_examples=4: no other example drawn would show 'example-"
    with pytest.raises(ConfigError, match=message):
        draw(same)


def test_a_single_example_is_refused() -> None:
    with pytest.raises(DataError, match=r"builtin:facts, row 1: is the only example.*; give two examples at least"):
        draw([example(0)])


def test_prompts_over_their_budget_are_counted_and_still_asked() -> None:
    long = example(1, demonstration="The answer is 1. " * 40)
    data = DataConfig(max_prompt_tokens=40, max_teacher_prompt_tokens=200)
    drawn = draw([example(0), long, example(2, prompt=(Message(role="user", content="Question 2? " * 30),))], data=data)
    assert len(drawn.probes) == 3
    assert (drawn.lengths[STUDENT].key, drawn.lengths[STUDENT].num_over) == ("data.max_prompt_tokens", 1)
    assert drawn.lengths["single_turn"].num_over >= 1
    longest = max(len(probe.teacher_prompts["single_turn"]) for probe in drawn.probes)
    assert drawn.lengths["single_turn"].longest == longest > 200


def test_what_the_model_cannot_read_is_left_out_of_every_comparison_and_counted() -> None:
    long = example(3, demonstration="The answer is 3. " * 60)
    drawn = draw([example(0), example(1), example(2), long], context_length=400)
    assert drawn.num_unreadable >= 1  # the long one, and whoever would have been misled by it
    assert "example-3" not in [probe.example_id for probe in drawn.probes]
    assert drawn.max_model_len <= 400


def test_a_model_that_reads_hardly_anything_is_refused_with_what_to_do() -> None:
    message = (
        "check.num_examples=32: of 3 examples drawn 0 fit into the 20 tokens the model reads, with completions of 8"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        draw([example(number) for number in range(3)], context_length=20)


def test_room_is_left_for_the_longest_completion() -> None:
    examples = [example(number) for number in range(3)]
    longest = max(probe.longest_prompt for probe in draw(examples).probes)
    assert draw(examples, max_new_tokens=300).max_model_len == longest + 300 + 1


def test_a_demonstration_that_would_not_count_as_right_is_marked() -> None:
    drawn = draw([example(0), example(1, answer="two"), example(2, answer="")])
    assert [probe.passes for probe in drawn.probes] == [True, False, True]


def test_an_answer_the_scorer_cannot_read_is_refused_with_its_line() -> None:
    rows = [example(0, answer='{"Action": "a", "Action_Input": {}}'), example(1, answer='{"Action": "a"}')]
    with pytest.raises(
        DataError,
        match=r"row 2: the answer of 'example-1' does not fit check\.match=TOOL_CALL: .*set another check\.match",
    ):
        draw(rows, match=Match.TOOL_CALL)


def test_an_example_without_the_context_is_refused_with_its_line() -> None:
    rows = [example(0, text="An article."), example(1)]
    with pytest.raises(DataError, match=r"row 2: example 'example-1' has no text, which teacher\.context shows"):
        draw(rows, context=TeacherContext.TEXT)


def test_seeds_of_samples_differ_between_examples_and_runs() -> None:
    examples = [example(number) for number in range(4)]
    seeds = [probe.seed for seed in (0, 1) for probe in draw(examples, seed=seed).probes]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_example_is_asked_the_same_whatever_else_is_drawn() -> None:
    examples = [example(number) for number in range(4)]
    changed = [*examples[:3], replace(examples[3], demonstration="The answer is another.", answer="another")]
    first, other = draw(examples).probes[0], draw(changed).probes[0]
    assert (first.seed, first.prompt_tokens, first.teacher_prompts) == (
        other.seed,
        other.prompt_tokens,
        other.teacher_prompts,
    )


def test_answers_are_scored_as_an_evaluation_scores_them() -> None:
    """With all values that are acceptable, and without what a completion echoes of its prompt."""
    question = "How many players has a team? For instance: thirteen. Or is it another number?"
    rows = [
        example(0, prompt=(Message(role="user", content=question),), answer="thirteen", demonstration="Thirteen."),
        example(1),
        example(2, answer=""),
    ]
    first, _, last = draw(rows).probes
    assert first.finds_right("It is thirteen.", Match.CONTAINS) is True
    assert first.finds_right(question, Match.CONTAINS) is False
    assert last.finds_right("It is thirteen.", Match.CONTAINS) is None


def test_a_pool_shows_other_rows_with_every_template_and_counts_into_the_length() -> None:
    examples = [example(number) for number in range(9)] + [example(9, demonstration="long " * 300)]
    plain = draw(examples[:5])
    pool = Pool(examples, PoolConfig(num=9), source="here", fields=["demonstration"])
    teacher = TeacherConfig(template="turns", demonstrations=DemonstrationSource.POOL)
    builders = {"turns": PromptBuilder(TOKENIZER, teacher)}
    drawn = draw(examples[:5], templates=["turns"], pools={"BM25": PoolSource(pool, builders)})
    for probe in drawn.probes:
        shown = probe.pools["BM25"]
        assert sorted(shown.ids) == sorted(e.example_id for e in examples if e.example_id != probe.example_id)
        text = TOKENIZER.decode(shown.shown_tokens)
        assert probe.demonstration not in text and text.count("<|im_end|>") == 1
        assert TOKENIZER.decode(shown.prompts["turns"]).count("The answer is") == 8
    assert drawn.max_model_len > plain.max_model_len + 300


def test_an_example_that_a_pool_has_nothing_for_is_asked_plainly() -> None:
    examples = [example(number) for number in range(4)]
    strange = replace(examples[3], example_id="strange", prompt=(Message(role="user", content="Wohin?"),))
    pool = Pool(examples[:3], PoolConfig(), source="here", fields=["demonstration"])
    builders = {"turns": PromptBuilder(TOKENIZER, TeacherConfig(demonstrations=DemonstrationSource.POOL))}
    drawn = draw([*examples[:3], strange], templates=["turns"], pools={"BM25": PoolSource(pool, builders)})
    asked = {probe.example_id: probe for probe in drawn.probes}["strange"]
    assert asked.pools["BM25"] == ((), (), {"turns": asked.prompt_tokens})


def test_what_a_pool_has_shown_is_its_rows_own_also_to_a_row_that_calls_a_tool() -> None:
    tokenizer = tokenizer_with(QWEN_2_5)
    call = Message(role="assistant", content="", tool_calls=(ToolCall(name="look_up", arguments='{"number": 3}'),))
    calling = example(3, demonstration=call.text, demonstration_turn=call)
    pool = Pool([example(1), calling], PoolConfig(), source="here", fields=["demonstration"])
    teacher = TeacherConfig(demonstrations=DemonstrationSource.POOL)
    pools = {"BM25": PoolSource(pool, {"turns": PromptBuilder(tokenizer, teacher)})}
    drawn = draw([example(1), calling], builders={"turns": PromptBuilder(tokenizer, TeacherConfig())}, pools=pools)
    shown = {probe.example_id: tokenizer.decode(probe.pools["BM25"].shown_tokens) for probe in drawn.probes}
    assert shown["example-3"].startswith("The answer is 1.") and '"number": 3' in shown["example-1"]
