"""With lm_eval itself: its evaluation of a model that can be computed by hand, and the task files on the real data."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.evaluation.harness.evaluator import HARNESS_ANSWERS_FILE, HarnessEvaluator
from sdft_ray.evaluation.harness.sources import SOURCES
from sdft_ray.evaluation.harness.student import Student
from tests.evaluation.harness.respondents import CharTokenizer, CountingRespondent

pytest.importorskip("lm_eval", reason="lm_eval is not installed; make harness installs it")

BENCH = Path(os.environ.get("SDFT_RAY_DATA") or Path(__file__).parents[4] / "shared" / "data") / "bench"
needs_data = pytest.mark.skipif(not BENCH.is_dir(), reason=f"the data sets are not here: {BENCH}")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def student(respondent: CountingRespondent) -> Student:
    return Student(respondent, tokenizer=CharTokenizer(), eos_token_ids=(ord(">"),), max_tokens=10_000, max_open=8)


def rows(task: HarnessTask) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BENCH / SOURCES[task].file).open(encoding="utf-8")]


def requests(task: HarnessTask, limit: int | None) -> list[Any]:
    from lm_eval.tasks import TaskManager

    from sdft_ray.evaluation.harness.adapter import on_file

    (loaded,) = TaskManager(include_defaults=False).load([on_file(task, BENCH)])["tasks"].values()
    loaded.build_all_requests(limit=limit, rank=0, world_size=1)
    return loaded.instances


def test_lm_evals_accuracy_of_a_model_that_prefers_short_answers_is_that_computed_by_hand(tmp_path: Path) -> None:
    """The shortest choice is the likeliest; per letter it is the longest. Gold is the shortest, then the middle one."""
    questions = [{"query": "A man sits. he", "choices": ["a", "bb", "cccc"], "label": label} for label in (0, 1)]
    (tmp_path / SOURCES[HarnessTask.hellaswag].file).write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tmp_path / "logs").mkdir()
    respondent = CountingRespondent()
    cfg = HarnessConfig(tasks=[HarnessTask.hellaswag], data=str(tmp_path))
    evaluator = HarnessEvaluator(student(respondent), cfg, run_dir=tmp_path)
    metrics = asyncio.run(evaluator.evaluate(7))
    assert respondent.loaded == [7]
    prompt = len("<A man sits. He")
    by_hand = [-float(sum(range(prompt, prompt + 1 + length))) for length in (1, 2, 4)]
    per_letter = [logprob / length for logprob, length in zip(by_hand, (1, 2, 4), strict=True)]
    best = per_letter.index(max(per_letter))
    assert metrics == {"harness/hellaswag_accuracy": (best == 0) / 2 + (best == 1) / 2}
    answers = [json.loads(line) for line in (tmp_path / HARNESS_ANSWERS_FILE).read_text().splitlines()]
    assert [answer["logprobs"] for answer in answers] == [by_hand, by_hand]
    assert {(answer["step"], answer["set"], answer["example_id"]) for answer in answers} == {
        (7, "hellaswag", "0"),
        (7, "hellaswag", "1"),
    }


def test_a_failure_of_a_worker_is_the_failure_of_the_evaluation(tmp_path: Path) -> None:
    class Broken(CountingRespondent):
        async def likelihood(self, prompt_tokens: Any, completion_tokens: Any) -> tuple[float, bool]:
            raise RuntimeError("rollout worker 0 failed")

    row = {"sentence": "Sarah met Maria so _ left.", "option1": "Sarah", "option2": "Maria", "answer": "1"}
    (tmp_path / SOURCES[HarnessTask.winogrande].file).write_text(json.dumps(row))
    (tmp_path / "logs").mkdir()
    cfg = HarnessConfig(tasks=[HarnessTask.winogrande], data=str(tmp_path))
    evaluator = HarnessEvaluator(student(Broken()), cfg, run_dir=tmp_path)
    with pytest.raises(RuntimeError, match="rollout worker 0 failed"):
        asyncio.run(evaluator.evaluate(0))


def test_a_whole_text_is_read_in_windows() -> None:
    from lm_eval.api.instance import Instance

    from sdft_ray.evaluation.harness.adapter import StudentLM

    async def ask(max_tokens: int) -> float:
        respondent = CountingRespondent()
        one = Student(respondent, tokenizer=CharTokenizer(), eos_token_ids=(0,), max_tokens=max_tokens, max_open=1)
        model = StudentLM(one, asyncio.get_running_loop())
        instance = Instance(request_type="loglikelihood_rolling", doc={}, arguments=("abcdef",), idx=0)
        (logprob,) = await asyncio.to_thread(model.loglikelihood_rolling, [instance])
        told = [token for _, completion in respondent.asked for token in completion]
        assert told == [ord(letter) for letter in "<abcdef"], "every token is predicted once"
        return logprob

    assert asyncio.run(ask(100)) == -float(sum(range(1, 8)))
    asyncio.run(ask(4))


@needs_data
def test_every_row_of_every_file_makes_a_question() -> None:
    for task in HarnessTask:
        if task is HarnessTask.ifeval:  # lm_eval's checks of it want NLTK's sentence model, see check_harness
            continue
        instances = requests(task, None)
        assert len({instance.doc_id for instance in instances}) == len(rows(task))


@needs_data
def test_prompts_and_choices_are_those_of_lm_evals_own_tasks() -> None:
    """Of the rows as the hub has them, as far as they follow from the files."""
    from lm_eval.tasks.hellaswag.utils import preprocess
    from lm_eval.utils import apply_template

    from sdft_ray.evaluation.harness.task_files.functions import hellaswag_text, official

    mmlu = official("mmlu/default/_default_template_yaml")
    anatomy = [row for row in rows(HarnessTask.mmlu) if row["subject"] == "anatomy"][0]
    asked = [one for one in requests(HarnessTask.mmlu, None) if one.doc == anatomy]
    described = official("mmlu/default/mmlu_anatomy.yaml")["description"] + apply_template(mmlu["doc_to_text"], anatomy)
    assert [one.args for one in asked] == [(described, f" {letter}") for letter in "ABCD"]

    row = rows(HarnessTask.truthfulqa_mc1)[0]
    asked = requests(HarnessTask.truthfulqa_mc1, 1)
    template = official("truthfulqa/truthfulqa_mc1.yaml")["doc_to_text"]
    assert asked[0].args[0] == apply_template(template, {"question": row["Question"]})
    assert asked[0].args[1] == f" {row['Best Answer']}."

    # A row of the hub, and what its file has of it.
    begins, ends, label = "A man is sitting on a roof.", "he", "Roof shingle removal"
    ours = hellaswag_text({"query": preprocess(f"{label}: {begins} {ends}")})
    assert ours == preprocess(f"{label}: {begins} {ends.capitalize()}")


@pytest.mark.parametrize("task", [HarnessTask.gsm8k, HarnessTask.humaneval, HarnessTask.ifeval])
def test_generation_is_set_as_in_lm_evals_own_task(task: HarnessTask) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from sdft_ray.evaluation.harness.sources import TASK_FILES
    from sdft_ray.evaluation.harness.task_files.functions import official

    own, theirs = (
        load_yaml(TASK_FILES / f"{task.name}.yaml", resolve_func=False),
        official(f"{task.name}/{task.name}.yaml"),
    )
    same = ["generation_kwargs", "doc_to_text", "doc_to_target"]
    same += ["filter_list", "metric_list"] if task is HarnessTask.gsm8k else []
    assert {key: own[key] for key in same} == {key: theirs[key] for key in same}


@needs_data
def test_the_canonical_solutions_of_humaneval_pass_and_an_empty_one_does_not() -> None:
    from sdft_ray.evaluation.harness.task_files.functions import humaneval_results

    for row in rows(HarnessTask.humaneval)[:3]:
        assert humaneval_results(row, [row["canonical_solution"]]) == {"pass@1": 1.0}
        assert humaneval_results(row, ["    pass\n"]) == {"pass@1": 0.0}


def test_small_letters_begin_the_last_sentence_only() -> None:
    from sdft_ray.evaluation.harness.task_files.functions import hellaswag_text

    kept = "Cleaning: How to clean. You can do it, e.g. with soap."
    assert hellaswag_text({"query": kept}) == kept
    assert re.search(r"roof\. The man$", hellaswag_text({"query": "Roofs: A man is on a roof. the man"}))
