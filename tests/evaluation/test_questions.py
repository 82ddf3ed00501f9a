"""Evaluation sets become questions, or a refusal that names the row and the setting."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import (
    DataConfig,
    EvaluationContext,
    EvaluationSetConfig,
    Match,
    OnBadRow,
    PoolConfig,
    TeacherConfig,
)
from sdft_ray.conversation import Message
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import ConfigError, DataError, ModelError
from sdft_ray.evaluation.questions import Question, QuestionSet, read_questions
from sdft_ray.evaluation.scorers import is_right
from sdft_ray.examples import Example
from tests.tiny import make_tiny_tokenizer

KEY = "evaluation.sets.mine"


class Builder:
    """Counts the characters of a prompt, and shows a demonstration as its length."""

    def check_system(self, key: str, system: str) -> None:
        if system == "dropped":
            raise ConfigError(key, system, "is dropped", "set another")

    def student(self, example: Example) -> tuple[int, ...]:
        return tuple(len(message.content) for message in example.prompt)

    def demonstration(self, example: Example) -> tuple[int, ...]:
        if "altered" in example.demonstration:
            raise ModelError("the chat template leaves out a part of the answer.")
        return (len(example.demonstration),)


def read(tmp_path: Path, *rows: dict[str, Any], data: DataConfig | None = None, **settings: Any) -> list[Question]:
    source = tmp_path / "set.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_set = EvaluationSetConfig(**{"source": str(source), "match": Match.CONTAINS, "max_new_tokens": 8, **settings})
    return read_set(of_set, data).questions


def read_set(of_set: EvaluationSetConfig, data: DataConfig | None = None) -> QuestionSet:
    return read_questions(KEY, of_set, data or DataConfig(), Builder())  # type: ignore[arg-type]


def test_a_row_becomes_a_question_with_its_gold_completion(tmp_path: Path) -> None:
    first, second = read(
        tmp_path,
        {"prompt": "Q?", "answer": "yes"},
        {"prompt": "Why?", "answer": "so", "demonstration": "Because."},
    )
    assert (first.prompt_tokens, first.answer, first.answer_tokens) == ((2,), "yes", (3,))
    assert second.answer_tokens == (8,)
    assert first.turns == (Message(role="user", content="Q?"),)


def test_a_set_has_columns_a_system_message_and_a_number_of_its_own(tmp_path: Path) -> None:
    data = DataConfig(columns={"answer": "other"}, system="Be brief.")
    rows = [{"prompt": "Q?", "key": "yes", "other": "no"}] * 3
    [question] = read(tmp_path, *rows, data=data, columns={"answer": "key"}, system="", num_questions=1)
    assert (question.answer, question.prompt_tokens) == ("yes", (2,))
    question = read(tmp_path, *rows, data=data)[2]
    assert (question.answer, question.prompt_tokens) == ("no", (9, 2))


def test_tool_calls_keep_their_acceptable_values(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "answer": [{"Action": "f", "Action_Input": "{}"}], "acceptable": {"unit": ["cm", ""]}}
    [question] = read(tmp_path, row, match=Match.TOOL_CALL)
    assert json.loads(question.answer) == row["answer"]
    assert json.loads(question.acceptable) == row["acceptable"]


def test_a_call_to_be_learned_is_the_answer_where_calls_are_matched(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "How warm is it in Tosk?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Tosk"}}}]},
    ]
    [question] = read(tmp_path, {"messages": turns}, match=Match.TOOL_CALL)
    completion = '<tool_call>{"name": "weather", "arguments": {"city": "Tosk"}}</tool_call>'
    assert is_right(completion, question.answer, Match.TOOL_CALL)
    given = {"messages": turns, "answer": '{"name": "weather", "arguments": {"city": "Velm"}}'}
    [question] = read(tmp_path, given, match=Match.TOOL_CALL)
    assert not is_right(completion, question.answer, Match.TOOL_CALL)
    with pytest.raises(DataError, match="has no answer"):
        read(tmp_path, {"messages": turns})


@pytest.mark.parametrize("match", [Match.CONTAINS, Match.EXACT])
def test_answers_that_hold_the_way_to_the_result_are_counted(tmp_path: Path, match: Match) -> None:
    def notes(*answers: str, match: Match = match) -> list[str]:
        source = tmp_path / "set.jsonl"
        source.write_text("".join(json.dumps({"prompt": "Q?", "answer": answer}) + "\n" for answer in answers))
        return read_set(EvaluationSetConfig(source=str(source), match=match, max_new_tokens=8)).notes

    given = ["18", "9 + 9 = 18\n#### 18", "Because " + "so it is " * 10]
    [note] = notes(*given)
    assert note.startswith(f"{KEY}: 2 of 3 answers hold #### or over 20 words (first: example 'line-2'); match=")
    assert f"match={match.name} " in note
    assert notes("18", "The capital of Veldra is Tosk.") == notes(*given, match=Match.JUDGE) == []


def test_a_row_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 2: evaluation example 'line-2' has no answer; fill answer \(evaluation.s"
    ):
        read(tmp_path, {"prompt": "Q?", "answer": "yes"}, {"prompt": "Q?"})


UNFIT = [
    (Match.CHOICE, "none of them", "is not a letter"),
    (Match.TOOL_CALL, "f()", "Expecting value"),
    (Match.YES_NO_MAYBE, "true", "none of yes, no, maybe"),
    (Match.KNOWLEDGE, "[]", "lists no key fact"),
    (Match.CONTAINS, "?!", "has no words"),
    (Match.JUDGE, "?!", "has no words"),
]


@pytest.mark.parametrize(("match", "answer", "problem"), UNFIT)
def test_an_answer_its_match_cannot_use_is_refused(tmp_path: Path, match: Match, answer: str, problem: str) -> None:
    with pytest.raises(DataError, match=f"line 1: the answer .*does not fit {KEY}.match={match.name}: .*{problem}"):
        read(tmp_path, {"prompt": "Q?", "answer": answer}, match=match)


def test_the_text_of_an_answer_that_does_not_fit_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the answer 'call f with x' of 'line-1' does not fit"):
        read(tmp_path, {"prompt": "Q?", "answer": "call f with x"}, match=Match.TOOL_CALL)


def test_only_the_rows_that_are_asked_for_are_checked(tmp_path: Path) -> None:
    good, bad = {"prompt": "Q?", "answer": "A"}, {"prompt": "Q?", "answer": "none of them"}
    rows = [good] * 4 + [bad] * 28
    assert len(read(tmp_path, *rows, match=Match.CHOICE, num_questions=4)) == 4
    cut = EvaluationSetConfig(source=f"{tmp_path}/set.jsonl[:4]", match=Match.CHOICE, max_new_tokens=8)
    assert len(read_set(cut).questions) == 4
    with pytest.raises(DataError, match="line 5: "):
        read(tmp_path, *rows, match=Match.CHOICE)


@pytest.mark.parametrize("own", [True, False])
def test_bad_rows_of_a_set_are_left_out_on_demand_and_said(tmp_path: Path, own: bool) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "Q?", "answer": "A"}, {"prompt": "Q?"}, {"answer": "B"}]
    rows += [{"prompt": "Q?", "answer": f"neither {number}"} for number in range(4)]
    data = DataConfig(on_bad_row=OnBadRow.ERROR if own else OnBadRow.SKIP)
    with_set = {"on_bad_row": OnBadRow.SKIP} if own else {}
    [question] = read(tmp_path, *rows, data=data, match=Match.CHOICE, **with_set)
    assert question.answer == "A"
    settings = {"source": f"{tmp_path}/set.jsonl", "match": Match.CHOICE, "max_new_tokens": 8, **with_set}
    malformed, unfit = read_set(EvaluationSetConfig(**settings), data).notes
    assert "1 bad rows are left out (on_bad_row=SKIP)" in malformed and "line 3: has no column prompt" in malformed
    assert "5 bad rows are left out" in unfit
    assert all(f"line {line}: " in unfit for line in (2, 4, 5)) and "line 6: " not in unfit
    with pytest.raises(DataError, match="line 1: "):
        read(tmp_path, *rows[3:], data=data, match=Match.CHOICE, **with_set)


def test_a_file_of_prompts_and_answers_is_a_set_whatever_columns_the_training_data_have(tmp_path: Path) -> None:
    for columns in (
        {"prompt": "prompt", "demonstration": "demonstration"},
        {"demonstration": "golden", "text": "page"},
    ):
        [question] = read(tmp_path, {"prompt": "Q?", "answer": "yes"}, data=DataConfig(columns=columns))
        assert question.answer == "yes"
    with pytest.raises(
        DataError,
        match=r"^evaluation\.sets\.mine\.source: .*line 1: .* golden.*evaluation\.sets\.mine\.columns\.demonstration",
    ):
        read(tmp_path, {"prompt": "Q?", "answer": "yes"}, columns={"demonstration": "golden"})


def test_a_system_message_that_the_chat_template_drops_is_refused_under_its_own_key(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "answer": "yes"}
    with pytest.raises(ConfigError, match=r"data\.system=dropped"):
        read(tmp_path, row, data=DataConfig(system="dropped"))
    with pytest.raises(ConfigError, match=rf"{KEY}\.system=dropped"):
        read(tmp_path, row, system="dropped")


def test_a_number_of_questions_beyond_the_set_is_said(tmp_path: Path) -> None:
    read(tmp_path, {"prompt": "Q?", "answer": "yes"})
    of_set = EvaluationSetConfig(
        source=f"{tmp_path}/set.jsonl", match=Match.CONTAINS, max_new_tokens=8, num_questions=100
    )
    assert read_set(of_set).notes == [f"{KEY}.num_questions=100: {tmp_path}/set.jsonl has 1 rows, all are taken"]


def test_a_judge_reads_the_whole_prompt_and_an_echo_is_what_others_said() -> None:
    turns = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Q?"),
        Message(role="assistant", content="A."),
        Message(role="user", content="Why?"),
    )
    question = Question("a", (1,), "yes", (1,), turns=turns)
    assert question.text == "system: Be brief.\n\nuser: Q?\n\nassistant: A.\n\nuser: Why?"
    assert question.given_texts == ("Be brief.", "Q?", "Why?")
    assert question._replace(turns=turns[1:2]).text == "Q?"


def test_a_question_whose_answer_the_chat_template_alters_is_refused_with_its_line_or_left_out(tmp_path: Path) -> None:
    rows = {"prompt": "Q?", "answer": "A."}, {"prompt": "Q?", "answer": "altered"}
    message = r"set\.jsonl, line 2: the chat template leaves out a part of the answer; .* {}\.on_bad_row=SKIP"
    with pytest.raises(DataError, match=message.format("data")):
        read(tmp_path, *rows)
    with pytest.raises(DataError, match=message.format(KEY)):
        read(tmp_path, *rows, on_bad_row=OnBadRow.ERROR)
    assert [question.answer for question in read(tmp_path, *rows, on_bad_row=OnBadRow.SKIP)] == ["A."]


ROW = {"prompt": "Which port?", "answer": "7443", "demonstration": "Port 7443.", "text": "The host has port 7443."}


def contents(question: Question) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in question.context]


def test_a_context_stands_before_the_question_and_a_judge_reads_the_question_alone(tmp_path: Path) -> None:
    [plain] = read(tmp_path, ROW)
    [told] = read(tmp_path, ROW, context=EvaluationContext.TEXT)
    [shown] = read(tmp_path, ROW, context=EvaluationContext.DEMONSTRATION)
    asked = f"Here is a text that bears on it:\n\n{ROW['text']}\n\nWhich port?"
    assert contents(told) == [("user", asked)]
    assert contents(shown) == [("user", "Which port?"), ("assistant", "Port 7443."), ("user", "Which port?")]
    assert plain.prompt_tokens == (11,)
    assert told.prompt_tokens == (len(asked),)
    assert shown.prompt_tokens == (11, 10, 11)
    assert plain.text == told.text == shown.text == "Which port?"
    assert plain.given_texts == ("Which port?",)
    assert told.given_texts == ("Which port?", asked), "a completion may echo what was given"


def test_a_context_keeps_the_turns_before_the_question(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
    row = ROW | {"prompt": [*turns, {"role": "user", "content": "Which port?"}]}
    [told] = read(tmp_path, row, context=EvaluationContext.TEXT, system="Be brief.")
    assert len(told.prompt_tokens) == 4 and told.prompt_tokens[:3] == (9, 3, 3)


def test_a_context_stands_above_the_question_and_not_between_a_call_and_its_answer(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}
    turns = [{"role": "user", "content": "Which port?"}, call, {"role": "tool", "content": "Found."}]
    row = ROW | {"prompt": turns}
    [told] = read(tmp_path, row, context=EvaluationContext.TEXT)
    [(role, content)] = contents(told)
    assert role == "user" and content.endswith("\n\nWhich port?")
    assert told.prompt_tokens == (len(content), 0, len("Found."))
    [shown] = read(tmp_path, row, context=EvaluationContext.DEMONSTRATION)
    assert [role for role, _ in contents(shown)] == ["user", "assistant", "user"]
    assert contents(shown)[0] == contents(shown)[2] == ("user", "Which port?")
    assert len(shown.prompt_tokens) == 5 and shown.prompt_tokens[-2:] == (0, len("Found."))


def test_a_mix_is_no_pool_of_a_set(tmp_path: Path) -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    source = tmp_path / "set.jsonl"
    source.write_text(json.dumps(ROW) + "\n")
    of_set = EvaluationSetConfig(
        source=str(source), match=Match.CONTAINS, max_new_tokens=8, context=EvaluationContext.POOL
    )
    data = DataConfig(source="", mix={"one": str(source), "other": str(source)})
    with pytest.raises(ConfigError, match=r"^teacher\.pool\.source=.*data\.mix has several sources.*name one"):
        read_questions(KEY, of_set, data, builder)


def test_a_pool_gives_a_rows_article_or_where_it_has_none_its_demonstration(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    others = [
        {"prompt": "Which port?", "demonstration": "Its own.", "text": "Its own."},
        {"prompt": "Which mail port?", "demonstration": "Port 25.", "text": "Mail has port 25."},
        {"prompt": "Which port has chat?", "demonstration": "Port 99."},
        {"prompt": "What is blue?", "demonstration": "The sky."},
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in others))
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(pool=PoolConfig(source=str(pool), num=2)))
    source = tmp_path / "set.jsonl"
    source.write_text(json.dumps({"prompt": "Which port?", "answer": "7443"}) + "\n")
    of_set = EvaluationSetConfig(
        source=str(source), match=Match.CONTAINS, max_new_tokens=8, context=EvaluationContext.POOL
    )
    found = read_questions(KEY, of_set, DataConfig(), builder)
    [question] = found.questions
    assert contents(question) == [
        ("user", "Which port has chat?"),
        ("assistant", "Port 99."),
        ("user", "Here is a text that bears on it:\n\nMail has port 25.\n\nWhich port?"),
    ]
    assert found.notes == [f"{KEY}: pool           4 rows of {pool}, of which a prompt is shown 2 by BM25"]


def test_a_pools_row_of_several_turns_is_given_whole(tmp_path: Path) -> None:
    talk = [("system", "Be kind."), ("user", "Which host?"), ("assistant", "Mail."), ("user", "Which port has it?")]
    row = {"prompt": [{"role": role, "content": content} for role, content in talk], "demonstration": "25."}
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(each) + "\n" for each in (row, {"prompt": "Sky?", "demonstration": "Blue."})))
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(pool=PoolConfig(source=str(pool))))
    source = tmp_path / "set.jsonl"
    source.write_text(json.dumps({"prompt": "Which port?", "answer": "7443"}) + "\n")
    of_set = EvaluationSetConfig(
        source=str(source), match=Match.CONTAINS, max_new_tokens=8, context=EvaluationContext.POOL
    )
    [question] = read_questions(KEY, of_set, DataConfig(), builder).questions
    assert contents(question) == [*talk[1:], ("assistant", "25."), ("user", "Which port?")]


@pytest.mark.parametrize("lacking", ["text", "demonstration"])
def test_a_row_without_what_the_context_gives_is_refused_with_its_line(tmp_path: Path, lacking: str) -> None:
    bare = {key: value for key, value in ROW.items() if key != lacking}
    context = EvaluationContext[lacking.upper()]
    message = rf"set\.jsonl, line 2: has no column {lacking}.*{KEY}\.context={context.name} gives it with each question"
    with pytest.raises(DataError, match=message):
        read(tmp_path, ROW, bare, context=context)
    assert len(read(tmp_path, ROW, bare, context=context, on_bad_row=OnBadRow.SKIP)) == 1
