"""The built-in sets are deterministic, disjoint where they must be, and consistent with their own table."""

import itertools
import json

import pytest

from sdft_ray.data.builtin import BUILTIN, facts, load, tools

EVERY_SPLIT = [(name, split) for name, splits in BUILTIN.items() for split in splits]
PROMPTS_ONLY = ("general", "everyday")
KEYS = {"id", "prompt", "demonstration", "text", "answer"}


def prompts(rows):
    return {row["prompt"] for row in rows}


@pytest.mark.parametrize(("name", "split"), EVERY_SPLIT)
def test_the_same_split_is_the_same_rows_every_time(name, split):
    assert load(name, split) == load(name, split)


@pytest.mark.parametrize(("name", "split"), EVERY_SPLIT)
def test_rows_have_the_keys_of_a_json_lines_file_and_survive_json(name, split):
    rows = load(name, split)
    assert rows
    for row in rows:
        assert set(row) <= KEYS
        needed = {"id", "prompt"} if name in PROMPTS_ONLY else {"id", "prompt", "demonstration", "answer"}
        assert needed <= set(row)
    assert json.loads(json.dumps(rows)) == rows


def test_ids_are_unique_across_all_sets_and_splits():
    ids = [row["id"] for name, split in EVERY_SPLIT for row in load(name, split)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("name", "split"), EVERY_SPLIT)
def test_no_prompt_is_asked_twice_in_one_split(name, split):
    rows = load(name, split)
    assert len(prompts(rows)) == len(rows)


@pytest.mark.parametrize(("name", "split"), EVERY_SPLIT)
def test_a_smaller_number_selects_a_prefix_of_the_prompts(name, split):
    assert prompts(load(name, split, 3)) < prompts(load(name, split))


@pytest.mark.parametrize("name", ["facts", "tools"])
def test_no_train_prompt_is_in_the_test_split(name):
    assert not prompts(load(name, "train")) & prompts(load(name, "test"))


def test_no_train_or_test_question_is_in_the_ood_split():
    assert not prompts(load("facts", "ood")) & (prompts(load("facts", "train")) | prompts(load("facts", "test")))


def test_there_are_at_least_24_facts_with_several_training_wordings_each():
    assert len(facts.TABLE) >= 24
    assert len({fact.name for fact in facts.TABLE}) == len(facts.TABLE)
    assert len(load("facts", "train", 8)) >= 3 * 8


def test_taught_holds_one_question_per_fact_and_all_of_them_are_trained_on():
    for num_facts in (1, 8, len(facts.TABLE)):
        taught = load("facts", "taught", num_facts)
        assert len(taught) == num_facts
        assert prompts(taught) <= prompts(load("facts", "train", num_facts))


@pytest.mark.parametrize(("name", "split"), [pair for pair in EVERY_SPLIT if pair[0] not in ("tools", *PROMPTS_ONLY)])
def test_every_answer_is_contained_in_its_demonstration_and_not_in_its_prompt(name, split):
    for row in load(name, split):
        assert row["answer"].lower() in row["demonstration"].lower()
        assert row["answer"].lower() not in row["prompt"].lower()


def test_every_fact_is_stated_by_its_article():
    for split in BUILTIN["facts"]:
        for row in load("facts", split):
            assert row["answer"] in row["text"]


@pytest.mark.parametrize("num_facts", [8, len(facts.TABLE)])
def test_every_ood_answer_follows_from_the_facts_its_id_names(num_facts):
    table = {fact.name: fact for fact in facts.TABLE[:num_facts]}
    rows = load("facts", "ood", num_facts)
    for row in rows:
        chain = [table[name] for name in row["id"].removeprefix("facts-ood-").split("+")]
        assert chain[0].subject.lower() in row["prompt"].lower()
        for earlier, later in itertools.pairwise(chain):
            assert earlier.answer == later.subject
            assert later.subject not in row["prompt"]
        assert row["answer"] == chain[-1].answer
    asked = {row["id"].removeprefix("facts-ood-") for row in rows}
    assert set(table) <= asked


def test_some_ood_questions_combine_two_facts():
    assert sum("+" in row["id"] for row in load("facts", "ood")) >= 8


def test_the_first_eight_facts_share_no_name():
    names = [name for fact in facts.TABLE[:8] for name in (fact.subject, fact.answer)]
    assert len(names) == len(set(names))


def test_there_are_forty_questions_of_prior_knowledge():
    assert len(load("prior", "test")) == 40


def test_the_halves_of_the_general_prompts_are_as_large_as_varied_and_share_no_prompt():
    halves = {split: load("general", split) for split in BUILTIN["general"]}
    kinds = {split: sorted(row["id"].rpartition("-")[2] for row in rows) for split, rows in halves.items()}
    assert kinds["train"] == kinds["test"]
    assert len(set(kinds["test"])) == 8
    assert len(halves["test"]) == 32
    assert not prompts(halves["train"]) & prompts(halves["test"])
    assert not (prompts(halves["train"]) | prompts(halves["test"])) & prompts(load("prior", "test"))


def test_what_is_rehearsed_is_neither_what_retention_is_measured_by_nor_what_is_taught():
    rehearsed = prompts(load("everyday", "train"))
    assert len(rehearsed) == 48
    for name, split in EVERY_SPLIT:
        assert name == "everyday" or not rehearsed & prompts(load(name, split))
    names = {name.lower() for fact in facts.TABLE for name in (fact.subject, fact.answer) if name[0].isupper()}
    assert not [question for question in rehearsed if any(name in question.lower() for name in names)]


def test_the_first_general_prompts_are_one_of_each_kind():
    assert len({row["id"].rpartition("-")[2] for row in load("general", "test", 8)}) == 8


@pytest.mark.parametrize("split", BUILTIN["tools"])
def test_the_gold_call_parses_and_names_a_documented_tool_with_all_its_arguments(split):
    documented = {tool.name: tool for tool in tools.TOOLS}
    for row in load("tools", split):
        call = json.loads(row["answer"])
        tool = documented[call["Action"]]
        assert list(call["Action_Input"]) == list(tool.arguments)
        for argument, value in call["Action_Input"].items():
            assert str(value) in row["prompt"].split("Request: ")[1]
            assert isinstance(value, int) == tool.arguments[argument].startswith("integer")


@pytest.mark.parametrize("split", BUILTIN["tools"])
def test_the_tool_demonstration_is_the_gold_call_in_the_asked_format(split):
    for row in load("tools", split):
        thought, action, action_input = row["demonstration"].split("\n")
        call = json.loads(row["answer"])
        assert thought.startswith("Thought: ")
        assert action == f"Action: {call['Action']}"
        assert json.loads(action_input.removeprefix("Action Input: ")) == call["Action_Input"]


def test_tool_rows_are_spread_evenly_over_the_tools():
    actions = [json.loads(row["answer"])["Action"] for row in load("tools", "train", 50)]
    assert {actions.count(tool.name) for tool in tools.TOOLS} == {10}


def test_another_seed_gives_other_tool_requests():
    assert prompts(tools.tools("train", seed=1)) != prompts(tools.tools("train", seed=2))


def test_an_unknown_set_is_refused_with_the_sets_there_are():
    with pytest.raises(ValueError, match="facts, tools, prior"):
        load("fact", "train")


@pytest.mark.parametrize("name", list(BUILTIN))
def test_an_unknown_split_is_refused_with_the_splits_there_are(name):
    with pytest.raises(ValueError, match=", ".join(BUILTIN[name])):
        load(name, "dev")


@pytest.mark.parametrize(("name", "split"), EVERY_SPLIT)
@pytest.mark.parametrize("num", [0, -1, 10_000])
def test_a_number_out_of_range_is_refused(name, split, num):
    with pytest.raises(ValueError, match=f"={num} is out of range"):
        load(name, split, num)
