"""Rows of whatever JSON there is: they are read, or refused with an error of this package that names the line."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdft_ray.config import DataConfig, MethodConfig, TeacherConfig
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import SdftError
from tests.data.families import QWEN_3, tokenizer_with

COLUMNS = (
    "prompt",
    "demonstration",
    "messages",
    "tools",
    "teacher_messages",
    "context",
    "demonstrations",
    "answer",
    "text",
)
TURNS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "nobody", 7]),
        "content": st.one_of(
            st.none(), st.text(max_size=9), st.lists(st.just({"type": "text", "text": "a"}), max_size=2)
        ),
        "tool_calls": st.one_of(st.none(), st.just([{}]), st.just([{"function": {"name": "f", "arguments": "{"}}])),
    },
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALUES = st.one_of(ANYTHING, st.lists(TURNS, max_size=4), st.text(min_size=1, max_size=20))
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5), min_size=1, max_size=3)


BUILDER = PromptBuilder(tokenizer_with(QWEN_3), TeacherConfig())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_any_rows_are_read_or_refused_by_one_sentence_with_the_line(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        assert len(read_dataset(DataConfig(source=str(file)), MethodConfig(), BUILDER).rows) == len(rows)
    except SdftError as error:
        assert str(error).startswith(f"{file}, line ") and "\n" not in str(error)
