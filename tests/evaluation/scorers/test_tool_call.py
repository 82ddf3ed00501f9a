"""Tool calls."""

import json

import pytest

from sdft_ray.config import Match
from sdft_ray.data.builtin import load
from sdft_ray.evaluation.scorers import is_right
from sdft_ray.evaluation.scorers.score import Gold, Score
from sdft_ray.evaluation.scorers.tool_call import acceptable_arguments, gold_calls, score_tool_call
from tests.evaluation.scorers.real_sets import real_rows

GOLD = '[{"Action": "find", "Action_Input": {"where": {"city": "Oslo", "near": [1, 2]}, "n": 3}}]'
RIGHT = [
    'Thought: I look.\nAction: find\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"where": {"city": "Oslo", "near": [1, 2]}, "n": 3} and so on }',
    'Action: find \r\nAction Input:\r\n{"where": {"city": "Oslo", "near": [1, 2]}, "n": 3}',
    'Action: find\nAction Input: {"where": {"city": "\\u004fslo", "near": [1.0, 2e0]}, "n": 3.0}',  # the same JSON
]
WRONG = [
    "",
    "Action: find",
    "Action: find\nAction Input:",
    'Action: find\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"',  # cut
    'Action: seek\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"n": 4, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"n": "3", "where": {"near": [1, 2], "city": "Oslo"}}',  # a string is no number
    'Action: find\nAction Input: {"n": 3, "where": {"near": [true, 2], "city": "Oslo"}}',  # true is not 1
    'Action: find\nAction Input: {"n": 3, "where": {"near": [2, 1], "city": "Oslo"}}',
    'Action: find\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"}, "more": null}',
    RIGHT[0] + "\n" + RIGHT[0],  # called twice
    "Action: find\nAction Input: the city",
    "Action: find\nAction Input: 3",
    'Action: find\nAction Input: {"n": NaN}',
    "Action: the action to take\nAction Input: the input to the action, must be in JSON format.\n" + RIGHT[0],
]


@pytest.mark.parametrize("completion", RIGHT)
def test_a_tool_call_is_right_in_any_order_of_keys(completion: str) -> None:
    assert is_right(completion, GOLD, Match.TOOL_CALL)


@pytest.mark.parametrize("completion", WRONG)
def test_another_tool_call_is_wrong(completion: str) -> None:
    assert not is_right(completion, GOLD, Match.TOOL_CALL)


ARGUMENTS = '{"where": {"city": "Oslo", "near": [1, 2]}, "n": 3}'
AS_TEMPLATES_WRITE = [
    f'<tool_call>\n{{"name": "find", "arguments": {ARGUMENTS}}}\n</tool_call>',
    f'{{"name": "find", "parameters": {ARGUMENTS}}}',
    f'I look.\n[TOOL_CALLS] [{{"name": "find", "arguments": {ARGUMENTS}}}]',
    f'{{"arguments": {ARGUMENTS}, "name": "find"}} and so on }}',
    f'[{{"type": "function", "function": {{"name": "find", "arguments": {json.dumps(ARGUMENTS)}}}}}]',
    f'{{"type": "function", "name": "find", "arguments": {ARGUMENTS}}}',
    f'{{"id": "x", "name": "find", "arguments": {ARGUMENTS}}}',
    f'{{"index": 0, "id": "x", "type": "function", "function": {{"name": "find", "arguments": {ARGUMENTS}}}}}',
    f"[TOOL_CALLS]find[ARGS]{ARGUMENTS}",
    f"[TOOL_CALLS]find[CALL_ID]abc123def[ARGS]{ARGUMENTS}",
    f'{{"type": "thought"}} {{"name": "find", "arguments": {ARGUMENTS}}}',
    f'{{"name": "Ada"}} asks: {{"name": "find", "arguments": {ARGUMENTS}}}',  # an object that is no call
]
NO_CALLS_OF_TEMPLATES = [
    f'<tool_call>\n{{"name": "seek", "arguments": {ARGUMENTS}}}\n</tool_call>',
    f'<tool_call>\n{{"name": "find", "arguments": {ARGUMENTS}',  # cut
    f'{{"name": "find", "arguments": {ARGUMENTS}}}' * 2,  # called twice
    f"[TOOL_CALLS]find[ARGS]{ARGUMENTS}" * 2,
    f"[TOOL_CALLS]seek[ARGS]{ARGUMENTS}",
    f"[TOOL_CALLS]find[ARGS]{ARGUMENTS[:-3]}",  # cut
    f'{{"id": "x", "name": "find", "arguments": {ARGUMENTS}',  # cut
    '{"name": "find", "arguments": "the city"}',
    '{"name": "find", "arguments": [1, 2]}',
    '{"name": 3, "arguments": {}}',
    "find(where={'city': 'Oslo', 'near': [1, 2]}, n=3)",
    '{"name": ' * 10000,
]


@pytest.mark.parametrize("completion", AS_TEMPLATES_WRITE)
def test_a_call_is_read_as_chat_templates_write_it(completion: str) -> None:
    assert is_right(completion, GOLD, Match.TOOL_CALL)
    assert is_right(completion, f'{{"function": {{"name": "find", "arguments": {ARGUMENTS}}}}}', Match.TOOL_CALL)
    assert is_right(RIGHT[0], f'{{"name": "find", "arguments": {ARGUMENTS}}}', Match.TOOL_CALL)


@pytest.mark.parametrize("completion", NO_CALLS_OF_TEMPLATES, ids=lambda text: text[:40])
def test_another_call_of_a_template_is_wrong(completion: str) -> None:
    assert not is_right(completion, GOLD, Match.TOOL_CALL)


@pytest.mark.parametrize(
    "answer", ["3", "[]", '{"name": "find"}', '[{"function": "find"}]', '{"function": {"name": 3}}']
)
def test_an_answer_that_is_no_call_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"is not an object|does not have a name|has no call"):
        gold_calls(answer)


def test_several_calls_are_a_multiset() -> None:
    calls = [{"Action": "a", "Action_Input": "{}"}, {"Action": "b", "Action_Input": '{"x": 1}'}]
    one, other = "Action: a\nAction Input: {}", 'Action: b\nAction Input: {"x": 1}'
    gold = json.dumps(calls)
    assert is_right(f"{one}\n{other}", gold, Match.TOOL_CALL)
    assert is_right(f"{other}\n{one}", gold, Match.TOOL_CALL)
    assert not is_right(f"{one}\n{one}", gold, Match.TOOL_CALL)
    assert not is_right(one, gold, Match.TOOL_CALL)
    assert not is_right(f"{one}\n{other}\n{other}", gold, Match.TOOL_CALL)


def test_the_calls_that_were_read_are_told() -> None:
    score = score_tool_call('Action: b\nAction Input: {"x": "\\ud800"}', Gold(GOLD))
    assert score == Score(False, '[{"name": "b", "arguments": {"x": "\\ud800"}}]')
    score.extracted.encode()  # half a character is written as its escape, which every file takes


ACCEPTABLE = json.dumps(
    {"base": [10, "ten"], "unit": ["cm", ""], "area": [{"width": [20], "depth": [1, ""]}], "points": [[1, 2]], "x": []}
)
ACCEPTED = [
    '{"base": 10, "area": {"width": 20}, "points": [1, 2]}',
    '{"base": "ten", "unit": "cm", "area": {"width": 20.0, "depth": 1}, "points": [1.0, 2]}',
    '{"base": 3}',  # the answer itself
]
REFUSED = [
    '{"base": 11, "area": {"width": 20}, "points": [1, 2]}',
    '{"area": {"width": 20}, "points": [1, 2]}',  # base may not be absent
    '{"base": 10, "unit": "m", "area": {"width": 20}, "points": [1, 2]}',
    '{"base": 10, "area": {"depth": 1}, "points": [1, 2]}',
    '{"base": 10, "area": {"width": 20, "height": 1}, "points": [1, 2]}',
    '{"base": 10, "area": {"width": 20}, "points": [1]}',
    '{"base": 10, "area": {"width": 20}, "points": 1}',
    '{"base": 10, "area": {"width": 20}, "points": [1, 2], "other": 1}',
    "{}",
]


@pytest.mark.parametrize("arguments", ACCEPTED + REFUSED)
def test_acceptable_values_count_and_optional_ones_may_be_absent(arguments: str) -> None:
    gold = Gold('{"Action": "f", "Action_Input": {"base": 3}}', ACCEPTABLE)
    score = score_tool_call(f"Action: f\nAction Input: {arguments}", gold)
    assert score.right == (arguments in ACCEPTED)


def test_each_of_several_calls_has_its_own_acceptable_values() -> None:
    calls = [{"Action": "f", "Action_Input": {"n": 1}}, {"Action": "f", "Action_Input": {"n": 2}}]
    gold = Gold(json.dumps(calls), json.dumps([{"n": [1, 2]}, {"n": [2, 3]}]))

    def right(*numbers: int) -> bool | None:
        return score_tool_call(
            "\n".join(f'Action: f\nAction Input: {{"n": {number}}}' for number in numbers), gold
        ).right

    assert right(1, 2) and right(2, 1) and right(2, 2) and right(2, 3) and right(3, 1)
    assert not right(1, 1) and not right(3, 3) and not right(1, 4)
    assert score_tool_call("", Gold(json.dumps(calls), json.dumps([None, {"n": [2]}]))) == Score(False, "")


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_built_in_gold_demonstration_is_right(split: str) -> None:
    for row in load("tools", split):
        assert is_right(str(row["demonstration"]), str(row["answer"]), Match.TOOL_CALL)


def real_calls(name: str) -> list[tuple[str, Gold]]:
    """Every row's gold calls as a completion, and what it is held against."""
    rows = real_rows(f"tooluse/{name}", answer="golden_answer")
    return [(written(json.loads(row.answer)), Gold(row.answer, row.acceptable)) for row in rows]


def written(calls: list[dict[str, str]]) -> str:
    return "\n".join(f"Action: {call['Action']}\nAction Input: {call['Action_Input']}" for call in calls)


@pytest.mark.parametrize(
    ("name", "num_rows"), [("official_eval97", 97), ("train_bfcl", 847), ("train_toolalpaca_real", 110)]
)
def test_every_gold_answer_of_the_real_sets_is_right(name: str, num_rows: int) -> None:
    rows = real_calls(name)
    assert (sum(bool(score_tool_call(*row).right) for row in rows), len(rows)) == (num_rows, num_rows)


def test_acceptable_values_of_the_real_set_are_accepted_one_by_one() -> None:
    """Each call with one argument replaced by another acceptable value, or left out where that is allowed."""
    num_changed = 0
    for _, gold in real_calls("train_bfcl"):
        [call], [acceptable] = gold_calls(gold.answer), acceptable_arguments(gold)
        assert acceptable is not None
        for name, values in acceptable.items():
            for value in values:
                if value == "" or isinstance(value, dict | list):
                    continue
                made = json.dumps(call.arguments | {name: value})
                assert score_tool_call(f"Action: {call.name}\nAction Input: {made}", gold).right, (gold, made)
                num_changed += 1
            wrong = json.dumps(call.arguments | {name: "no such value"})
            assert not score_tool_call(f"Action: {call.name}\nAction Input: {wrong}", gold).right
    assert num_changed > 2000


@pytest.mark.parametrize(
    "answer",
    ["", "3", "[]", '{"Action": "find"}', '{"Action": "find", "Action_Input": "no"}',
     '{"Action": 1, "Action_Input": {}}'],
)  # fmt: skip
def test_an_answer_that_is_no_call_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError):
        gold_calls(answer)


@pytest.mark.parametrize("acceptable", ["no", "[]", "3", '{"n": 3}', "[{}, {}]"])
def test_acceptable_values_of_another_form_are_an_error(acceptable: str) -> None:
    with pytest.raises(ValueError):
        acceptable_arguments(Gold(GOLD, acceptable))


def test_no_prompt_of_the_real_set_that_comes_back_is_right() -> None:
    for row in real_rows("tooluse/official_eval97", answer="golden_answer"):
        assert not score_tool_call(row.prompt[-1].content, Gold(row.answer)).right
