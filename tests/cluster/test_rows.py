"""Rows with tools under a template that thinks, two steps on real parts: vLLM, a teacher, DeepSpeed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.data.reasoning import BehindMark
from sdft_ray.models.folder import load_tokenizer
from tests.data.families import QWEN_3

TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": {}}}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERS = {"role": "tool", "tool_call_id": "a", "content": "3 degrees"}
REPLY = {"role": "assistant", "content": "It is cold."}
MARK = "o"  # a text that a random network writes now and then, and no prompt ends with


def ask(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


ROWS = [
    {"id": "call", "messages": [ask("How warm is it in Oslo?"), CALLS]},
    {"id": "answer", "messages": [ask("How warm is it in Oslo?"), CALLS, ANSWERS, REPLY]},
    {"id": "parts", "messages": [ask([{"type": "text", "text": "How warm is it?"}]), REPLY]},
    {
        "id": "feedback",
        "prompt": "How warm is it in Bergen?",
        "teacher_messages": [ask("How warm is it in Bergen?"), REPLY, ask("Wrong: say it in degrees.")],
    },
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run_dir(launch: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("files")
    (files / "rows.jsonl").write_text("".join(json.dumps(row | {"tools": [TOOL]}) + "\n" for row in ROWS))
    (files / "own.jinja").write_text(QWEN_3)
    folder: Path = launch(
        "rows",
        f"data.source={files}/rows.jsonl",
        f"model.chat_template={files}/own.jinja",
        "+model.template_switches.enable_thinking=false",
        f"loss.skip_until={MARK}",
        "loss.skip_first_tokens=1",
        "rollout.max_new_tokens=24",
        "num_steps=2",
        "tracking.num_samples=4",
    )[0]
    return folder


def test_rows_with_tools_and_a_teachers_conversation_train_two_steps(run_dir: Path) -> None:
    steps = [line for line in lines(run_dir / "metrics.jsonl") if "learner/loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    samples = lines(run_dir / "samples.jsonl")
    assert sorted(line["example_id"] for line in samples if line["step"] == 1) == [
        "answer",
        "call",
        "feedback",
        "parts",
    ]
    for line in samples:
        assert '"name": "weather"' in line["prompt"] and line["prompt"].endswith("<think>\n\n</think>\n\n")
        assert ("3 degrees" in line["prompt"]) == (line["example_id"] == "answer")
    assert all(line["learner/divergence_nats"] > 0 for line in steps), "the teacher reads more than the student"
    assert all(line["learner/shared_share"] > 0 for line in steps), "the tools are read once for several samples"


def test_only_what_stands_behind_the_mark_carries_loss(run_dir: Path) -> None:
    start = BehindMark(MARK, load_tokenizer(str(run_dir / "model")).decode)
    samples = lines(run_dir / "samples.jsonl")
    expected = []
    for line in samples:
        before = start(tuple(line["token_ids"]))
        expected.append(0 if before is None else len(line["token_ids"]) - max(1, before))
    assert [line["num_counted"] for line in samples] == expected
    assert any(expected)
