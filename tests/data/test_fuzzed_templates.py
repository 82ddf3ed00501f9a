"""Templates of whatever fragments there are: they render, or are refused by one sentence that names them, and soon."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdft_ray.config import TeacherConfig, TeacherContext
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data import sandbox
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.examples import Example
from sdft_ray.models.folder import load_tokenizer
from tests.tiny import make_tiny_tokenizer

SOON_S = 20.0  # on a busy core; a tenth of the budget is spent within a second
FRAGMENTS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}",
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "{{ question }} {{ demonstration }}",
    "{% for d in demonstrations %}{{ d.question }} {{ d }}{% endfor %}",
    "{% for m in messages %}",
    "{% for a in range(9999999999) %}",
    "{% for a in range(99999) %}",
    "{% endfor %}",
    "{% if tools %}",
    "{% else %}",
    "{% endif %}",
    "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(40) }}",
    "{% macro on() %}{{ on() }}{% endmacro %}{{ on() }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set x.y = 1 %}",
    "{{ raise_exception('No.') }}",
    "{{ raise_exception() }}",
    "{{ nowhere }}",
    "{{ nowhere.at.all }}",
    "{{ messages[99].content }}",
    "{{ messages[0]['content'].__class__ }}",
    "{{ 'a' * 10 ** 12 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%*d' | format(999999999, 1) }}",
    "{{ '%s %s' | format(1) }}",
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ strftime_now(7) }}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ lipsum(n=999999999) }}",
    "{{ [1] | batch(999999999, 0) | list }}",
    "{% break %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% include 'other' %}",
    "{% import 'other' as other %}",
    "{% extends 'other' %}",
    "{% raw %}",
    "{% nothing %}",
    "{{ 'open",
    "{{",
    "{%",
    "{#",
    "}}",
    "{{ '<|im_end|>' }}",
    "<|im_start|>",
    "\x00\ud7ff\ue000",
    "{{ " + "(" * 150 + "1" + ")" * 150 + " }}",
    "{% for a in 'ab' %}" * 25 + "{% endfor %}" * 25,
)
TEMPLATES = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5).map("".join),
    st.tuples(st.sampled_from(FRAGMENTS), st.text(max_size=12)).map("".join),
)
CALL = Message(role="assistant", content="", tool_calls=(ToolCall(name="find", arguments='{"a": 1}', call_id="c1"),))
CALLING = (Message(role="user", content="Find."), CALL, Message(role="tool", content="Found.", tool_call_id="c1"))
ROW = Example(example_id="one", prompt=(Message(role="user", content="Who?"),), demonstration="She.")


@pytest.fixture(scope="module", autouse=True)
def small_budget() -> Iterator[None]:
    """What is bounded at all is so sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "BUDGET", sandbox.BUDGET // 10)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


def prompts_by_chat_template(model: Path, template: Path) -> str:
    """What a chat template makes of a row, or the message that refuses it."""
    began = time.monotonic()
    try:
        builder = PromptBuilder(load_tokenizer(str(model), str(template)), TeacherConfig())
        builder.student(ROW)
        builder.teacher(ROW)
        builder.student(Example(example_id="two", prompt=CALLING, demonstration="It.", tools='[{"name": "find"}]'))
        said = ""
    except (ConfigError, ModelError) as error:
        said = str(error)
    assert time.monotonic() - began < SOON_S
    return said


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(template=TEMPLATES)
def test_any_chat_template_renders_or_is_refused_by_the_name_of_its_file(
    model: Path, tmp_path: Path, template: str
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(template)
    said = prompts_by_chat_template(model, file)
    assert not said or str(file) in said, said


def test_every_fragment_alone_is_refused_by_the_name_of_its_file(model: Path, tmp_path: Path) -> None:
    """None of them shows a whole conversation."""
    file = tmp_path / "own.jinja"
    for fragment in FRAGMENTS:
        file.write_text(fragment)
        assert str(file) in prompts_by_chat_template(model, file), fragment


@settings(max_examples=40, deadline=None, derandomize=True)
@given(template=TEMPLATES, context=st.sampled_from(TeacherContext))
def test_any_teacher_template_renders_or_is_refused_by_its_setting(template: str, context: TeacherContext) -> None:
    began = time.monotonic()
    try:
        PromptBuilder(make_tiny_tokenizer(), TeacherConfig(template=template, context=context)).teacher(ROW)
    except ConfigError as error:
        assert str(error).startswith("teacher.template=")
    assert time.monotonic() - began < SOON_S
