"""Teacher templates over several demonstrations and over the fields of a row."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sdft_ray.config import DemonstrationSource, PoolConfig, TeacherConfig, TeacherContext
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.teacher_template import TEMPLATES
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.examples import Example
from tests.tiny import make_tiny_tokenizer

HIT = Example(example_id="other", prompt=(Message(role="user", content="Who else?"),), demonstration="He.")
NEXT = Example(example_id="next", prompt=(Message(role="user", content="Who next?"),), demonstration="They.")
ROW = Example(example_id="one", prompt=(Message(role="user", content="Who?"),), demonstration="She.")
FEEDBACK = "{{ question }} {{ context.feedback }}"


def builder(**teacher: Any) -> PromptBuilder:
    return PromptBuilder(make_tiny_tokenizer(), TeacherConfig(**teacher))


def with_fields(**fields: Any) -> Example:
    return Example(example_id="one", prompt=ROW.prompt, demonstration="She.", context=json.dumps(fields))


def shown(example: Example, **teacher: Any) -> str:
    prompts = builder(**teacher)
    prompts.check_context(example, "a.jsonl", 3)
    return make_tiny_tokenizer().decode(prompts.teacher(example))


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_built_in_template_shows_all_demonstrations_each_with_its_question(template: str) -> None:
    row = Example(
        example_id="one",
        prompt=ROW.prompt,
        demonstration="She.",
        further_demonstrations=("She, too.",),
        pool_hits=((HIT, 2.0), (NEXT, 1.0)),
    )
    prompt = shown(row, template=template, demonstrations=DemonstrationSource.OWN_AND_POOL, pool=PoolConfig(num=2))
    for text in ("She.", "She, too.", "Who else?", "He.", "Who next?", "They."):
        assert prompt.count(text) == 1
    assert prompt.index("Who else?") < prompt.index("He.")
    assert "response to this question:\n\nHe." not in prompt, "a pool's row answers another question"
    alone = shown(row, template=template, demonstrations=DemonstrationSource.POOL)
    assert "She" not in alone and "He." in alone


TALK = Example(
    example_id="talk",
    prompt=(
        Message(role="system", content="Be kind."),
        Message(role="user", content="Who wrote the Iliad?"),
        Message(role="assistant", content="Homer."),
        Message(role="user", content="And the Aeneid?"),
    ),
    demonstration="Virgil.",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_row_of_several_turns_is_shown_with_all_of_them(template: str) -> None:
    row = replace(ROW, pool_hits=((TALK, 1.0), (HIT, 0.5)))
    prompt = shown(row, template=template, demonstrations=DemonstrationSource.POOL, pool=PoolConfig(num=2))
    places = [prompt.index(text) for text in ("Who wrote the Iliad?", "Homer.", "And the Aeneid?", "Virgil.")]
    assert places == sorted(places)
    assert "Be kind." not in prompt


def test_turns_shows_a_row_of_several_turns_as_turns_below_an_article() -> None:
    row = replace(ROW, text="An article.", pool_hits=((TALK, 1.0),))
    teacher = {"template": "turns", "context": TeacherContext.TEXT_AND_DEMONSTRATION}
    turns = builder(**teacher, demonstrations=DemonstrationSource.POOL).turns.of(row)
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert turns[0].content.startswith("Here is a text") and turns[0].content.endswith("\n\nWho wrote the Iliad?")
    assert [turn.content for turn in turns[1:]] == ["Homer.", "And the Aeneid?", "Virgil.", "Who?"]


def test_turns_shows_the_calls_and_answers_of_tools_in_front_of_a_demonstration() -> None:
    call = Message(role="assistant", content="", tool_calls=(ToolCall(name="find", arguments="{}"),))
    asking = (Message(role="user", content="Where?"), call, Message(role="tool", content="In Tosk."))
    row = replace(ROW, pool_hits=((Example(example_id="tool", prompt=asking, demonstration="There."), 1.0),))
    turns = builder(template="turns", demonstrations=DemonstrationSource.POOL).turns.of(row)
    assert turns[:3] == asking
    assert [turn.content for turn in turns[3:]] == ["There.", "Who?"]
    [alone] = builder(demonstrations=DemonstrationSource.POOL).turns.of(row)
    assert 'user: Where?\n\nassistant: {"name": "find", "arguments": {}}\n\ntool: In Tosk.\n\n' in alone.content


def test_the_thinking_template_has_question_demonstration_and_request_in_this_order() -> None:
    prompt = shown(ROW, template="thinking")
    assert prompt.index("Who?") < prompt.index("She.") < prompt.index("think step by step")


def test_a_template_loops_over_demonstrations() -> None:
    text = "{{ question }}{% for d in demonstrations %}[{{ loop.index }} {{ d.question }} {{ d|trim }}]{% endfor %}"
    row = Example(example_id="one", prompt=ROW.prompt, demonstration="She.", further_demonstrations=("It.",))
    assert "Who?[1 Who? She.][2 Who? It.]" in shown(row, template=text)


def test_no_demonstration_is_left_out_without_a_word() -> None:
    text = "{{ question }} {{ demonstration }}"
    row = Example(example_id="one", prompt=ROW.prompt, demonstration="She.", further_demonstrations=("It.",))
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: example 'one' has several demonstrations.*loop over them"):
        shown(row, template=text)
    with pytest.raises(ConfigError, match=r"shows the first demonstration only.*num=2 give several; loop over them"):
        builder(template=text, demonstrations=DemonstrationSource.POOL, pool=PoolConfig(num=2))
    assert "Who? She." in shown(ROW, template=text)


def test_a_template_names_the_fields_of_a_row() -> None:
    row = with_fields(feedback="Too long.", items=["a", "b"], scores={"style": 0.5})
    text = (
        "{{ context.feedback }} {{ context['items'][1] }} {{ context.scores.style }} {{ demonstration }} {{ question }}"
    )
    assert "Too long. b 0.5 She. Who?" in shown(row, template=text)


def test_a_row_without_a_demonstration_is_taught_by_its_fields_alone() -> None:
    row = Example(example_id="one", prompt=ROW.prompt, demonstration="", context='{"feedback": "Too long."}')
    assert "Who? Too long." in shown(row, template=FEEDBACK, context=TeacherContext.FIELDS)
    with pytest.raises(DataError, match=r"line 3: example 'one' has no context, which teacher\.context shows"):
        shown(ROW, template=FEEDBACK, context=TeacherContext.FIELDS)


@pytest.mark.parametrize(
    "text", ["{{ context.feedback }}", "{{ context['feedback'] }}", "{{ context.feedback|upper }}"]
)
def test_a_field_that_a_row_lacks_is_named_with_its_line(text: str) -> None:
    template = "{{ question }} {{ demonstration }} " + text
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: example 'one' has no context\.feedback, for which teacher"):
        shown(with_fields(hint="No."), template=template)
    with pytest.raises(DataError, match=r"has no context\.feedback"):
        shown(ROW, template=template)


def test_a_field_within_a_field_is_named_as_well() -> None:
    template = "{{ question }} {{ demonstration }} {{ context.scores.style }} {{ context.feedback.upper() }}"
    assert "0.5 TOO LONG." in shown(with_fields(scores={"style": 0.5}, feedback="Too long."), template=template)
    with pytest.raises(DataError, match=r"line 3: example 'one' has no context\.scores\.style, for which"):
        shown(with_fields(scores={"tone": 1}, feedback="Too long."), template=template)


def test_a_template_may_do_without_a_field() -> None:
    text = "{{ question }} {{ demonstration }}{% if context.hint is defined %} Hint: {{ context.hint }}{% endif %}"
    assert "Who? She.<" in shown(ROW, template=text)
    assert "Who? She. Hint: No." in shown(with_fields(hint="No."), template=text)


@pytest.mark.parametrize(
    ("text", "context", "problem"),
    [
        ("{{ context.feedback }} {{ demonstration }}", "DEMONSTRATION", "does not show the question"),
        (FEEDBACK, "DEMONSTRATION", "does not show the demonstration"),
        (FEEDBACK + " {{ demonstration }}", "TEXT_AND_DEMONSTRATION", "does not show the text"),
        (FEEDBACK + " {{ anwser }}", "FIELDS", r"cannot be rendered \('anwser' is undefined\)"),
        ("single_turn", "FIELDS", r"does not show the context, though .*=FIELDS; write {{ context\.FIELD }}"),
    ],
)
def test_a_template_of_fields_that_hides_something_is_refused(text: str, context: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        builder(template=text, context=TeacherContext[context])


@pytest.mark.parametrize(
    "text",
    [
        "{{ context.__class__.__mro__ }}",
        "{{ context.feedback.__class__ }}",
        "{{ context.update({'feedback': 1}) }}",
        "{{ context.feedback * 10 ** 9 }}",
        "{{ demonstrations.append(1) }}",
        "{{ demonstrations[0].__class__.__mro__ }}",
        "{{ demonstrations[0].question.__class__ }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ context.feedback }}{% endfor %}{% endfor %}",
    ],
)
def test_a_hostile_template_reaches_nothing_through_a_rows_values(text: str) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.template=.*cannot be rendered"):
        shown(with_fields(feedback="Too long."), template="{{ question }} {{ demonstration }} " + text)


def test_a_hostile_row_is_text() -> None:
    hostile = "{{ ''.__class__.__mro__ }}{% for x in range(9) %}{% endfor %}"
    row = with_fields(feedback=hostile, __class__="named like Python's own", items=hostile)
    text = "{{ question }} {{ demonstration }} {{ context.feedback }} {{ context.items }}"
    assert f"She. {hostile} {hostile}" in shown(row, template=text)
    assert shown(Example(example_id="one", prompt=ROW.prompt, demonstration=hostile)).count(hostile) == 1
