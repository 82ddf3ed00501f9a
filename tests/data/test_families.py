"""Rows with tools, switches and reasoning under the chat templates of families, in small copies."""

import json
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from sdft_ray.config import DemonstrationSource, TeacherConfig
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.chat_template import ChatTemplate
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.examples import Example
from tests.data import families
from tests.data.families import STOPS, tokenizer_with
from tests.tiny import END

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CALL = ToolCall(name="weather", arguments='{"city": "Oslo"}', call_id="abcdefgh1")
ASK = Message(role="user", content="How warm?")
CALLS = Message(role="assistant", content="", tool_calls=(CALL,))
ANSWERS = Message(role="tool", content="3 degrees", tool_call_id="abcdefgh1", name="weather")
REPLY = Message(role="assistant", content="It is cold.")
WITH_CALL = Example(example_id="call", prompt=(ASK,), demonstration=CALLS.text, demonstration_turn=CALLS, tools=TOOLS)
BEHIND_TOOL = Example(example_id="tool", prompt=(ASK, CALLS, ANSWERS), demonstration="It is cold.", tools=TOOLS)

# What a turn that calls the tool is in each family, as the student writes it behind its prompt.
CALLED = {
    "QWEN_2_5": f'\n<tool_call>\n{{"name": "weather", "arguments": {{"city": "Oslo"}}}}\n</tool_call>{END}',
    "QWEN_3": "<think>\n\n</think>\n\n"
    f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "Oslo"}}}}\n</tool_call>{END}',
    "LLAMA_3": '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot|>',
    "OLMO_3_THINK": f'\n\n</think>\n\n<function_calls>weather(city="Oslo")</function_calls>{END}',
    "MISTRAL": f'[TOOL_CALLS][{{"name": "weather", "arguments": {{"city": "Oslo"}}, "id": "abcdefgh1"}}]{END}',
    "GPT_OSS": ' to=weather<|message|>{"city": "Oslo"}<|call|>',
}


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    return tokenizer_with(getattr(families, family))


def builder(
    tokenizer: PreTrainedTokenizerFast, switches: dict[str, object] | None = None, **teacher: object
) -> PromptBuilder:
    stops = tokenizer.convert_tokens_to_ids(STOPS)
    return PromptBuilder(tokenizer, TeacherConfig(**teacher), switches=switches, stop_tokens=stops)  # type: ignore[arg-type]


MARKS = (
    "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n  {% generation %}\n {{ m.content }}"
    "{%- endgeneration -%}\n  {% endif %}\n{% if loop.last %}{% break %}{% endif %}\n{{ loop.length }}{% endfor %}"
)
FORMATS = (
    "{{ '%s: %5d' % (messages[0].role, 7) }}{{ '{} {:>4}'.format(messages[0].content, 1) }}{{ '%s' | format('a') }}"
    "{% set turn = cycler('a', 'b') %}{{ turn.next() }}{{ nowhere }}{{ messages[0].items() | list | length }}"
    "{{ {'items': 1}.items() | list }}{{ tools | tojson(indent=2) }}{{ '<é>' | tojson }}{{ none }}"
    "{{ strftime_now('%Y') }}"
)
FAMILIES = {name: text for name, text in vars(families).items() if name.isupper() and isinstance(text, str)}


@pytest.mark.parametrize("template", [*FAMILIES.values(), MARKS, FORMATS], ids=[*FAMILIES, "marks", "formats"])
def test_a_rendering_is_that_of_transformers(template: str) -> None:
    tokenizer = tokenizer_with(template)
    chat = ChatTemplate(tokenizer, {}, "model.template_switches")
    talk = [Message(role="user", content=" Hello. "), Message(role="assistant", content="Hi."), ASK]
    for turns in (talk[:1], talk[:2], talk):
        raw = [{"role": turn.role, "content": turn.content} for turn in turns]
        for tools in ("", TOOLS):
            given = {"tools": json.loads(tools) if tools else None, "add_generation_prompt": len(turns) != 2}
            expected = tokenizer.apply_chat_template(raw, tokenize=False, **given)
            assert chat.render(turns, tools, add_generation_prompt=given["add_generation_prompt"]) == expected


@pytest.mark.parametrize("family", CALLED)
def test_a_demonstration_that_calls_a_tool_is_the_families_own_rendering_of_that_turn(family: str) -> None:
    tokenizer = tokenizer_of(family)
    tokens = builder(tokenizer).demonstration(WITH_CALL)
    assert tokenizer.decode(tokens) == CALLED[family]
    assert tokens[-1] in {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(STOPS)}


@pytest.mark.parametrize("family", CALLED)
def test_tools_and_their_answers_stand_in_both_prompts(family: str) -> None:
    tokenizer = tokenizer_of(family)
    prompts = builder(tokenizer)
    for tokens in (prompts.student(BEHIND_TOOL), prompts.teacher(BEHIND_TOOL)):
        text = tokenizer.decode(tokens)
        assert '"name": "weather"' in text and "3 degrees" in text
    teacher = tokenizer.decode(prompts.teacher(BEHIND_TOOL))
    assert teacher.index("It is cold.") < teacher.index("3 degrees"), "the template replaces the question only"
    student = tokenizer.decode(prompts.student(BEHIND_TOOL))
    assert teacher.endswith(student[student.index("How warm?") + len("How warm?") :])
    prompts.check_tails(BEHIND_TOOL)


@pytest.mark.parametrize("family", CALLED)
def test_the_teacher_reads_a_call_in_the_question_as_text_and_in_a_turn_of_its_own_as_a_call(family: str) -> None:
    tokenizer = tokenizer_of(family)
    in_question = tokenizer.decode(builder(tokenizer).teacher(WITH_CALL))
    written = CALLED[family].split("</think>")[-1].split(END)[0].split("<|eot|>")[0].split("<|call|>")[0].strip()
    assert f"{written}\n\nNow give a response" in in_question
    as_turn = tokenizer.decode(builder(tokenizer, template="turns").teacher(WITH_CALL))
    assert written in as_turn and CALLS.text not in as_turn.replace(written, "")


def test_special_tokens_of_a_call_are_tokens_in_the_completion_and_in_turns_but_text_in_a_question() -> None:
    tokenizer = tokenizer_of("MISTRAL")
    begins = tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    assert begins in builder(tokenizer).demonstration(WITH_CALL)
    assert begins not in builder(tokenizer).teacher(WITH_CALL)
    assert begins in builder(tokenizer, template="turns").teacher(WITH_CALL)


def test_special_tokens_in_arguments_and_schemas_are_text() -> None:
    tokenizer = tokenizer_of("QWEN_2_5")
    hostile = ToolCall(name="weather", arguments=json.dumps({"city": f"Oslo{END}"}), call_id=f"a{END}")
    prompt = (ASK, replace(CALLS, tool_calls=(hostile,)), replace(ANSWERS, tool_call_id=f"a{END}", content=END))
    usual, guarded = BEHIND_TOOL, replace(BEHIND_TOOL, prompt=prompt, tools=TOOLS.replace("weather", f"weather{END}"))
    end = tokenizer.convert_tokens_to_ids(END)
    counts = [builder(tokenizer).student(example).count(end) for example in (usual, guarded)]
    assert counts[0] == counts[1]
    assert f"Oslo{END}" in tokenizer.decode(builder(tokenizer).student(guarded))


def test_arguments_are_given_as_text_where_the_template_joins_them_to_text() -> None:
    tokenizer = tokenizer_of("DEEPSEEK_R1")
    example = replace(WITH_CALL, tools="")
    assert '<call>weather\n{"city": "Oslo"}</call>' in tokenizer.decode(builder(tokenizer).demonstration(example))


def test_arguments_are_given_as_text_where_the_template_would_print_them_in_pythons_form() -> None:
    template = families.QWEN_2_5.replace("f.arguments | tojson", "f.arguments")
    tokenizer = tokenizer_with(template)
    assert '"arguments": {"city": "Oslo"}' in tokenizer.decode(builder(tokenizer).demonstration(WITH_CALL))


@pytest.mark.parametrize(
    ("family", "example", "problem"),
    [
        ("GEMMA_3", WITH_CALL, "leaves out the tools of the row"),
        ("GEMMA_3", BEHIND_TOOL, "cannot render turns of user, assistant, tool"),
        ("GEMMA_3", replace(BEHIND_TOOL, prompt=(ASK, ASK), tools=""), "Roles must alternate"),
        ("SMOLLM_3", BEHIND_TOOL, "leaves out the tool_calls of a turn of the assistant"),
        (
            "QWEN_3",
            replace(BEHIND_TOOL, prompt=(Message(role="developer", content="B."), ASK)),
            "a turn of the developer",
        ),
        (
            "LLAMA_3",
            replace(BEHIND_TOOL, prompt=(ASK, replace(CALLS, content="So."), ANSWERS)),
            "text beside tool_calls",
        ),
        ("LLAMA_3", replace(BEHIND_TOOL, prompt=(ASK, replace(CALLS, tool_calls=(CALL, CALL)))), "One call only"),
        ("DEEPSEEK_R1", WITH_CALL, "leaves out the tools of the row"),
    ],
)
def test_what_a_family_cannot_show_is_refused_by_name(family: str, example: Example, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        builder(tokenizer_of(family)).student(example)


def test_a_pools_row_that_calls_a_tool_is_shown_as_the_family_writes_calls() -> None:
    row = Example(example_id="row", prompt=BEHIND_TOOL.prompt[:1], demonstration="", tools=TOOLS)
    row = replace(row, pool_hits=((WITH_CALL, 1.0),))
    teacher = {"demonstrations": DemonstrationSource.POOL}
    tokenizer = tokenizer_of("LLAMA_3")
    turns = PromptBuilder(tokenizer, TeacherConfig(template="turns", **teacher)).turns
    assert turns.of(row) == (ASK, CALLS, ASK)
    [alone] = PromptBuilder(tokenizer, TeacherConfig(**teacher)).turns.of(row)
    assert '{"name": "weather", "parameters": {"city": "Oslo"}}' in alone.content


def test_a_call_that_the_family_does_not_show_is_no_demonstration() -> None:
    assert builder(tokenizer_of("SMOLLM_3")).turns.lacking(WITH_CALL) == "", "the row has one: the template is at fault"
    with pytest.raises(ModelError, match="leaves out the tool_calls of a turn of the assistant"):
        builder(tokenizer_of("SMOLLM_3")).demonstration(WITH_CALL)


def test_gemma_shows_a_system_message_in_the_first_question() -> None:
    tokenizer = tokenizer_of("GEMMA_3")
    example = replace(BEHIND_TOOL, prompt=(Message(role="system", content="Be brief."), ASK), tools="")
    for tokens in (builder(tokenizer).student(example), builder(tokenizer).teacher(example)):
        assert "<|turn|>user\nBe brief.\n\nHow warm?" in tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("family", "empty"), [("QWEN_3", "<think>\n\n</think>\n\n"), ("SMOLLM_3", "<think>\n\n</think>\n")]
)
def test_a_switch_turns_thinking_off_on_both_sides(family: str, empty: str) -> None:
    tokenizer = tokenizer_of(family)
    example = replace(BEHIND_TOOL, prompt=(ASK,), tools="")
    for switches, tail in (({}, ""), ({"enable_thinking": False}, empty)):
        prompts = builder(tokenizer, switches=switches)
        for tokens in (prompts.student(example), prompts.teacher(example)):
            assert tokenizer.decode(tokens).endswith(f"<|im_start|>assistant\n{tail}")
        prompts.check_tails(example)
    assert tokenizer.decode(prompts.demonstration(example)) == f"It is cold.{END}"


def test_switches_of_the_teacher_are_its_own_and_on_purpose() -> None:
    tokenizer = tokenizer_of("QWEN_3")
    example = replace(BEHIND_TOOL, prompt=(ASK,), tools="")
    prompts = builder(tokenizer, {"enable_thinking": True}, template_switches={"enable_thinking": False})
    assert tokenizer.decode(prompts.student(example)).endswith("assistant\n")
    assert tokenizer.decode(prompts.teacher(example)).endswith("assistant\n<think>\n\n</think>\n\n")
    prompts.check_tails(example)


def test_a_switch_may_be_of_any_kind() -> None:
    tokenizer = tokenizer_of("SMOLLM_3")
    example = replace(BEHIND_TOOL, prompt=(ASK,), tools="")
    text = tokenizer.decode(builder(tokenizer, {"xml_tools": [{"name": "weather"}]}).student(example))
    assert "{'name': 'weather'}" in text
    dated = builder(tokenizer_of("LLAMA_3"), {"date_string": "1 May 2026"}).student(example)
    assert "Today: 1 May 2026" in tokenizer_of("LLAMA_3").decode(dated)


@pytest.mark.parametrize(
    ("family", "name", "reads"),
    [
        ("QWEN_3", "enable_thinkin", "enable_thinking"),
        ("QWEN_2_5", "enable_thinking", "none"),
        ("QWEN_3", "said", "enab"),
    ],
)
def test_a_switch_that_the_template_never_reads_is_refused_with_those_it_reads(
    family: str, name: str, reads: str
) -> None:
    tokenizer = tokenizer_of(family)
    message = rf"template_switches\.{name}=False: the chat template .*no variable of that name.*reads {reads}"
    with pytest.raises(ConfigError, match=rf"model\.{message}"):
        builder(tokenizer, {name: False})
    with pytest.raises(ConfigError, match=rf"teacher\.{message}"):
        builder(tokenizer, template_switches={name: False})


def test_marks_of_generated_text_do_not_hide_what_a_template_reads() -> None:
    template = families.QWEN_3.replace(
        "{{ said }}", "{% generation %}{{ said }}{% endgeneration %}{% if a %}{% endif %}"
    )
    prompts = builder(tokenizer_with(template), {"a": 1, "enable_thinking": False})
    assert prompts.student(replace(BEHIND_TOOL, tools=""))


def test_tails_that_differ_unasked_are_refused_with_both() -> None:
    """A template that thinks about long questions only: the teacher's is long, the student's is not."""
    short = "{% if add_generation_prompt and messages[-1].content | length < 40 %}<think>\n\n</think>\n\n{% endif %}"
    prompts = builder(tokenizer_with(families.QWEN_2_5 + short))
    with pytest.raises(ConfigError) as refused:
        prompts.check_context(replace(BEHIND_TOOL, prompt=(ASK,)), "rows.jsonl", 1)
    for words in (
        "teacher.template_switches=",
        "'<|im_end|>\\n<|im_start|>assistant\\n<think>",
        "assistant\\n' for the",
    ):
        assert words in str(refused.value)
    on_purpose = families.QWEN_2_5 + short + "{% if a is defined %}{{ a }}{% endif %}"
    asked_for = builder(tokenizer_with(on_purpose), template_switches={"a": "b"})
    asked_for.check_context(replace(BEHIND_TOOL, prompt=(ASK,)), "rows.jsonl", 1)


def test_a_demonstration_whose_reasoning_an_earlier_turn_would_lose_is_refused_with_the_remedy() -> None:
    tokenizer = tokenizer_of("QWEN_3")
    example = replace(BEHIND_TOOL, prompt=(ASK,), demonstration="<think>\nNorth.\n</think>\n\nCold.", tools="")
    with pytest.raises(ModelError, match=r"'<think>.*where that is an earlier turn.*teacher\.template=single_turn"):
        builder(tokenizer, template="turns").teacher(example)
    prompts = builder(tokenizer)
    assert "<think>\nNorth.\n</think>\n\nCold." in tokenizer.decode(prompts.teacher(example))
    assert tokenizer.decode(prompts.demonstration(example)) == f"<think>\nNorth.\n</think>\n\nCold.{END}"


def test_the_teachers_own_conversation_is_read_word_for_word_with_the_tools_of_the_row() -> None:
    tokenizer = tokenizer_of("QWEN_3")
    feedback = Message(role="user", content="Wrong: say it in degrees.")
    own = replace(BEHIND_TOOL, prompt=(ASK,), teacher_messages=(ASK, REPLY, feedback))
    prompts = builder(tokenizer, template="turns")
    chat = ChatEncoder(tokenizer)
    assert prompts.teacher(own) == chat.prompt((ASK, REPLY, feedback), TOOLS)
    assert prompts.teacher(replace(own, demonstration="")) == prompts.teacher(own), "it needs no demonstration"
    assert prompts.student(own) == chat.prompt((ASK,), TOOLS)
    prompts.check_tails(own)


def test_a_mark_that_prompts_hold_already_is_refused() -> None:
    tokenizer = tokenizer_of("QWEN_3")
    builder(tokenizer).check_mark("loss.skip_until", "</think>")
    with pytest.raises(
        ConfigError, match=r"loss\.skip_until=</think>: the chat template ends prompts with .*no completion"
    ):
        builder(tokenizer, {"enable_thinking": False}).check_mark("loss.skip_until", "</think>")
