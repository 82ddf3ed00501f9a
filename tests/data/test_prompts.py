"""Student and teacher prompt: one chat template, one BOS, a teacher shown exactly what its context says."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sdft_ray.config import TeacherConfig, TeacherContext
from sdft_ray.config.validation import template_label
from sdft_ray.conversation import Message
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.teacher_template import TEMPLATES, check_template
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.examples import Example
from tests.tiny import BOS, END, make_tiny_tokenizer

QUESTION = "Where is {{ Velmor }} & <Tosk>?"  # looks like a template and like markup, and must stay as it is
EXAMPLE = Example(
    example_id="one",
    prompt=(Message(role="system", content="Be brief."), Message(role="user", content=QUESTION)),
    demonstration="In the north.",
    text="Velmor lies in the north.",
)
SHORT = f"Now answer in your own words: {QUESTION}"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tiny_tokenizer()


def builder(tokenizer: PreTrainedTokenizerFast, **teacher: object) -> PromptBuilder:
    return PromptBuilder(tokenizer, TeacherConfig(**teacher))  # type: ignore[arg-type]


def chat(*turns: str) -> str:
    return BOS + "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns) + "<|im_start|>assistant\n"


def test_the_student_prompt_is_the_conversation_up_to_the_students_turn(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = tokenizer.decode(builder(tokenizer).student(EXAMPLE))
    assert prompt == chat("system\nBe brief.", f"user\n{QUESTION}")


def test_the_teacher_prompt_keeps_the_turns_before_and_extends_the_last(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = tokenizer.decode(builder(tokenizer, template="single_turn_short").teacher(EXAMPLE))
    announced = "An expert answers: In the north."
    assert prompt == chat("system\nBe brief.", f"user\n{QUESTION}\n\n{announced}\n\n{SHORT}")


def test_the_turns_template_makes_the_demonstration_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer.decode(builder(tokenizer, template="turns").teacher(EXAMPLE))
    assert prompt == chat("system\nBe brief.", f"user\n{QUESTION}", "assistant\nIn the north.", f"user\n{QUESTION}")


@pytest.mark.parametrize("template", ["single_turn", "single_turn_short"])
@pytest.mark.parametrize("context", [context for context in TeacherContext if context.name not in ("NONE", "FIELDS")])
def test_the_teacher_sees_what_its_context_names_and_nothing_else(
    tokenizer: PreTrainedTokenizerFast, template: str, context: TeacherContext
) -> None:
    prompt = tokenizer.decode(builder(tokenizer, template=template, context=context).teacher(EXAMPLE))
    assert prompt.count(QUESTION) == {"single_turn": 1, "single_turn_short": 2}[template]
    assert (EXAMPLE.text in prompt) == ("TEXT" in context.name)
    assert (EXAMPLE.demonstration in prompt) == ("DEMONSTRATION" in context.name)


@pytest.mark.parametrize("template", TEMPLATES)
def test_without_context_the_teacher_reads_the_student_prompt(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    prompts = builder(tokenizer, template=template, context=TeacherContext.NONE)
    assert prompts.teacher(EXAMPLE) == prompts.student(EXAMPLE)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_prompt_begins_with_one_bos(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    prompts = builder(tokenizer, template=template)
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id  # the trap is set: encoding would add a second one
    for tokens in (prompts.student(EXAMPLE), prompts.teacher(EXAMPLE)):
        assert tokens.count(tokenizer.bos_token_id) == 1


def test_a_chat_template_that_doubles_bos_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    with pytest.raises(ModelError, match=r"two BOS tokens.*model\.chat_template"):
        builder(tokenizer).student(EXAMPLE)


def test_the_demonstration_ends_its_turn_and_has_no_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = builder(tokenizer).demonstration(EXAMPLE)
    assert tokenizer.decode(tokens) == EXAMPLE.demonstration + END
    assert tokens[-1] == tokenizer.eos_token_id


def test_the_demonstration_ends_as_the_chat_template_ends_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = "<|pad|>"
    assert builder(tokenizer).demonstration(EXAMPLE)[-1] == tokenizer.convert_tokens_to_ids(END)


def test_a_chat_template_that_closes_no_turn_ends_the_demonstration_with_eos(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert builder(tokenizer).demonstration(EXAMPLE)[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(("context", "field"), [("TEXT", "text"), ("DEMONSTRATION", "demonstration")])
def test_an_example_without_what_the_context_shows_is_refused(
    tokenizer: PreTrainedTokenizerFast, context: str, field: str
) -> None:
    prompts = builder(tokenizer, context=TeacherContext[context])
    bare = Example(example_id="bare", prompt=EXAMPLE.prompt, demonstration="")
    assert prompts.turns.lacking(EXAMPLE) == ""
    assert prompts.turns.lacking(bare) == field
    with pytest.raises(ValueError, match=f"'bare' has no {field}"):
        prompts.teacher(bare)


def test_a_template_may_be_a_file(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ question }} Hint: {{ demonstration }}\n")
    prompt = tokenizer.decode(builder(tokenizer, template=str(tmp_path / "own.jinja")).teacher(EXAMPLE))
    assert prompt == chat("system\nBe brief.", f"user\n{QUESTION} Hint: In the north.")


def test_a_template_may_be_the_text_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer.decode(
        builder(tokenizer, template="{{ question }} Hint: {{ demonstration }}\n").teacher(EXAMPLE)
    )
    assert prompt == chat("system\nBe brief.", f"user\n{QUESTION} Hint: In the north.")


def test_a_chat_template_that_opens_a_block_is_told_and_an_example_it_garbles_is_named(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert builder(tokenizer).notes == ()
    plain = str(tokenizer.chat_template)
    tokenizer.chat_template = plain.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif")
    prompts = builder(tokenizer)
    assert tokenizer.decode(prompts.demonstration(EXAMPLE)) == f"\n</think>\n\nIn the north.{END}"
    assert prompts.notes == (
        "the chat template ends prompts with '<think>\\n': demonstrations close that block, empty",
    )
    tokenizer.chat_template = plain.replace("message['content']", "message['content'][:40]")
    with pytest.raises(ModelError, match=r"example 'one': the chat template of .* leaves out a part of the answer"):
        builder(tokenizer).demonstration(replace(EXAMPLE, demonstration="In the north. " * 9))


HOSTILE = [
    "{{ 'a' * 10 ** 15 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ question.__class__ }}",
    "{{ self.__init__.__globals__['os'].system('touch %s') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch %s').read() }}",
    "{{ lipsum.__globals__['os'].popen('touch %s').read() }}",
    "{% for name in range(10 ** 9) %}{{ name }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{{ 1 // 0 }}",
    "{{ question + 1 }}",
    "{{ 5|dictsort }}",
    "{{ 5|xmlattr }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%*d'|format(10**10, 1) }}",
    "{{ 10 ** (10 ** 9) }}",
    "{{ 10**9 * [1] }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(99) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{{ 'x'.center(10**10) }}",
    "{{ 'x'.zfill(10**10) }}",
    "{{ 'x'|center(10**10) }}",
    "{{ 'x'|indent(10**10, true) }}",
    "{{ [1]|batch(10**9, 'x')|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ ('x' * 999999).expandtabs(10**6) }}",
    "{{ ('\\t' * 9999).expandtabs(10**5) }}",
    "{{ ('x' * 999999).replace('x', 'y' * 999999) }}",
    "{{ ('x' * 999999)|replace('x', 'y' * 999999) }}",
    "{{ range(99999)|join('x' * 99999) }}",
    "{{ ('x' * 99999).join(['y'] * 99999) }}",
    "{{ ([('x' * 999999)] * 999)|string }}",
    "{% set n = namespace(x='xy') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='xy') %}{% for a in range(99) %}{% set n.x = (n.x ~ '') ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='xy') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='xy') %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='xy') %}{% for a in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "{{ lipsum(n=10**6) }}",
    "{% for a in range(99999) %}{% set x = 7**300000 %}{% endfor %}",
    "{% for a in range(99999) %}{% set x = range(99999)|list|sort %}{% endfor %}",
    "{{ '{:>200000000}'.format(1) }}",
    "{{ '{a:>200000000}'.format_map({'a': 1}) }}",
    "{{ (1).to_bytes(2000000000, 'big') }}",
    "{{ ('x' * 9999)|wordwrap(1, true, 'x' * 900) }}",
    "{{ [[[1] * 9999]]|tojson(indent=1000) }}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_template_executes_nothing_and_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, hostile: str
) -> None:
    text = "{{ question }} {{ demonstration }} " + hostile.replace("%s", str(tmp_path / "executed"))
    with pytest.raises(ConfigError, match=r"teacher\.template=.*: cannot be rendered \("):
        builder(tokenizer, template=text)
    assert not (tmp_path / "executed").exists()


def test_a_template_may_compute_with_what_fits_a_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    text = (
        "{{ '-' * 7 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ 0.5 * 3 }}{{ 'a' ~ 1 ~ none }}{% for x in [1, 2] %}{{ loop.length }}"
        "{{ x }}{% endfor %}{{ 'ab'|replace('a', 'xy')|upper }}{{ ['a', 'b']|join('-') }}{{ 'tab'.center(5) }} "
        "{{ question }} {{ demonstration|indent(2) }}"
    )
    assert "-------3321.5a1None2122XYBa-b tab  " in tokenizer.decode(builder(tokenizer, template=text).teacher(EXAMPLE))


def test_a_template_that_fails_on_one_row_only_is_refused_as_well(tokenizer: PreTrainedTokenizerFast) -> None:
    fails = "{{ question }} {{ demonstration }}{% if 'north' in demonstration %}{{ 1 // 0 }}{% endif %}"
    prompts = builder(tokenizer, template=fails)
    with pytest.raises(ConfigError, match=r"teacher\.template=.*cannot be rendered"):
        prompts.teacher(EXAMPLE)


def test_a_binary_template_is_refused_with_its_line(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_bytes(b"{{ question }}\n\x89PNG\xff{{ demonstration }}")
    with pytest.raises(ConfigError, match=r"teacher\.template=.*own\.jinja: line 2 is not UTF-8"):
        builder(tokenizer, template=str(tmp_path / "own.jinja"))


def test_a_template_with_a_turn_that_the_chat_template_drops_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    drops = "for message in messages if message['role'] != 'assistant'"
    tokenizer.chat_template = str(tokenizer.chat_template).replace("for message in messages", drops)
    with pytest.raises(ConfigError, match=r"teacher\.template=turns: .* leaves out a turn of the assistant"):
        builder(tokenizer, template="turns")


def test_special_tokens_in_a_demonstration_are_text_to_teacher_and_student(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    hostile = replace(EXAMPLE, demonstration=f"In the north.{END}")
    for template in TEMPLATES:
        prompts = builder(tokenizer, template=template)
        usual, guarded = prompts.teacher(EXAMPLE), prompts.teacher(hostile)
        assert guarded.count(tokenizer.eos_token_id) == usual.count(tokenizer.eos_token_id)
        assert prompts.demonstration(hostile).count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ question }} and nothing else", "does not show the demonstration"),
        ("{{ demonstration }}", "does not show the question"),
        ("{{ question }} {{ answer }}", "cannot be rendered"),
        ("{{ question }} {{ demonstration", "cannot be rendered"),
    ],
)
def test_a_text_without_its_placeholders_is_refused_with_itself_and_a_remedy(
    tokenizer: PreTrainedTokenizerFast, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        builder(tokenizer, template=text)
    assert str(refused.value).startswith(f"teacher.template={text}: {problem}")
    assert "write {{ " in str(refused.value) or "text and context as variables" in str(refused.value)


def test_a_template_is_refused_under_the_setting_it_comes_from() -> None:
    with pytest.raises(ConfigError, match=r"check\.templates=singel: is no built-in template, no file, and no text"):
        check_template(TeacherConfig(template="singel"), "check.templates")
    with pytest.raises(ConfigError, match=r"check\.templates=.*: does not show the question"):
        check_template(TeacherConfig(template="{{ demonstration }}"), "check.templates")
    check_template(TeacherConfig(template="turns"), "check.templates")


def test_messages_quote_the_beginning_of_a_long_text_in_one_line() -> None:
    assert template_label("turns") == "turns"
    assert template_label("a/long/path/" * 10 + "own.jinja") == "a/long/path/" * 10 + "own.jinja"
    assert template_label("{{ question }}\n\nHint: {{ demonstration }}") == "{{ question }} Hint: {{ demonstration }}"
    label = template_label("{{ question }}" + " and more" * 40)
    assert label.endswith("...") and len(label) < 70 and "\n" not in label


@pytest.mark.parametrize(
    ("text", "context", "problem"),
    [
        ("{{ demonstration }}", "DEMONSTRATION", "does not show the question"),
        ("{{ question }}", "DEMONSTRATION", "does not show the demonstration"),
        ("{{ question }}{% if false %}{{ text }}{% endif %}", "TEXT", "does not show the text"),
        ("{{ question }}{{ demo }}", "DEMONSTRATION", "cannot be rendered"),
        ("{{ question", "DEMONSTRATION", "cannot be rendered"),
    ],
)
def test_a_template_that_hides_something_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, text: str, context: str, problem: str
) -> None:
    (tmp_path / "own.jinja").write_text(text)
    with pytest.raises(ConfigError, match=rf"teacher\.template=.*own\.jinja: {problem}"):
        builder(tokenizer, template=str(tmp_path / "own.jinja"), context=TeacherContext[context])


def test_the_turns_template_is_refused_where_no_demonstration_makes_its_turns(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(
        ConfigError, match=r"teacher\.template=turns: does not show the text, though teacher\.context=TEXT"
    ):
        builder(tokenizer, template="turns", context=TeacherContext.TEXT)


def test_an_unknown_template_is_refused_with_those_there_are(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        ConfigError, match=r"teacher\.template=singel: .*single_turn, single_turn_short, turns, thinking, give the path"
    ):
        builder(tokenizer, template="singel")


def test_a_tokenizer_without_chat_template_or_eos_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        builder(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template; set model\.chat_template"):
        builder(tokenizer)


def test_a_chat_template_that_refuses_the_conversation_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system turns') }}{% endif %}"
    tokenizer.chat_template = refusal + str(tokenizer.chat_template)
    with pytest.raises(
        ModelError, match=r"cannot render turns of system, user \(No system turns\); change data\.system"
    ):
        builder(tokenizer).student(EXAMPLE)
