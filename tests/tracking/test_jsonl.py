import json
import math
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import CheckpointError, NonFiniteError
from sdft_ray.records import SampleReport
from sdft_ray.tracking.jsonl import JsonLines, cut_after
from tests.fakes import make_views
from tests.full_disk import no_file_beyond


def decode(tokens: tuple[int, ...]) -> str:
    return "".join(map(chr, tokens))


def sample(completion: str = "Hi\u2028!") -> SampleReport:
    return SampleReport(
        example_id="example-1",
        epoch=0,
        weight_version=3,
        prompt_tokens=tuple(map(ord, "Q?")),
        completion_tokens=tuple(map(ord, completion)),
        num_counted=len(completion) - 1,
        views=make_views([0.25] * len(completion)),
        copied_share=0.5,
        truncated=True,
        pool_hits=(("near", 2.1234567),),
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def write_run(run_dir: Path, num_steps: int) -> None:
    lines = JsonLines(run_dir, decode)
    lines.log_evaluation(0, 0.0, {"evaluation/taught_accuracy": 0.0})
    for step in range(1, num_steps + 1):
        lines.log_step(step, float(step), {"learner/loss": 1.0 / step}, (sample(),))
    lines.close()


def test_a_line_a_step_and_a_line_a_sample_are_readable_before_the_files_are_closed(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path, decode)
    lines.log_step(1, 2.5, {"learner/loss": 0.5}, (sample(), sample()))
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "time_s": 2.5, "learner/loss": 0.5}]
    first, second = read(tmp_path / "samples.jsonl")
    assert first == second
    assert first["prompt"] == "Q?"
    assert first["completion"] == "".join(first["tokens"]) == "Hi\u2028!"
    assert len(first["tokens"]) == len(first["token_ids"]) == len(first["divergence"]) == 4
    for name in ("student_logprobs", "teacher_logprobs", "student_entropy", "teacher_entropy"):
        assert len(first[name]) == 4
    assert (first["disagreements"][0]["token"], first["disagreements"][0]["teacher_logprob"]) == ("H", -0.5)
    assert (first["num_counted"], first["copied_share"], first["rehearsal"]) == (3, 0.5, False)
    assert first["pool"] == [{"example_id": "near", "score": 2.123457}]
    assert first["truncated"] is True
    assert (first["step"], first["example_id"], first["weight_version"]) == (1, "example-1", 3)


def test_a_killed_process_leaves_every_finished_line(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from sdft_ray.tracking.jsonl import JsonLines, cut_after
lines = JsonLines(Path({str(tmp_path)!r}), str)
for step in (1, 2):
    lines.log_step(step, 0.0, {{"learner/loss": 0.5}}, ())
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[2])
    process = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root})
    assert process.returncode == -signal.SIGKILL
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_resumed_run_puts_aside_the_steps_it_takes_again_and_appends(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=5)
    lines = JsonLines(tmp_path, decode, resumed_step=3)
    assert [line["step"] for line in lines.history] == [0, 1, 2, 3]
    assert lines.elapsed_s == 3.0
    lines.log_step(4, 9.0, {"learner/loss": 7.0}, (sample(),))
    lines.close()
    metrics = read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [0, 1, 2, 3, 4]
    assert metrics[-1]["learner/loss"] == 7.0
    assert [line["step"] for line in read(tmp_path / "samples.jsonl")] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "metrics.jsonl", "samples.jsonl"]
    assert [line["step"] for line in read(tmp_path / "earlier" / "metrics.1.jsonl")] == [4, 5]
    assert [line["step"] for line in read(tmp_path / "earlier" / "samples.1.jsonl")] == [4, 5]


def test_lines_that_are_put_aside_are_kept_byte_by_byte_wherever_they_stood(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"step": 1, "a": "\xc3\xa4"}\n{"step": 3}\n{"step":2}\n{"step": 4, "cut\xc3')
    assert [record["step"] for record in cut_after(path, 2)] == [1, 2]
    assert path.read_bytes() == b'{"step": 1, "a": "\xc3\xa4"}\n{"step":2}\n'
    assert (tmp_path / "earlier" / "answers.1.jsonl").read_bytes() == b'{"step": 3}\n{"step": 4, "cut\xc3'


def test_a_new_run_in_the_same_folder_begins_new_files(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=2)
    JsonLines(tmp_path, decode).close()
    assert read(tmp_path / "metrics.jsonl") == []
    assert read(tmp_path / "samples.jsonl") == []
    assert [line["step"] for line in read(tmp_path / "earlier" / "metrics.1.jsonl")] == [0, 1, 2]


def test_a_last_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time')
    lines = JsonLines(tmp_path, decode, resumed_step=3)
    lines.log_step(3, 4.0, {}, ())
    lines.close()
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("not json\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 3 is not JSON"):
        JsonLines(tmp_path, decode, resumed_step=1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path, decode)
    lines.log_step(1, 0.0, {"learner/loss": math.nan, "learner/grad_norm": math.inf}, ())
    lines.close()
    (line,) = read(tmp_path / "metrics.jsonl")
    assert line["learner/loss"] is None
    assert line["learner/grad_norm"] is None


def test_lines_that_cannot_be_cut_back_for_want_of_room_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with no_file_beyond(5), pytest.raises(CheckpointError, match=r"metrics.jsonl cannot be cut back to step 1 \(File"):
        cut_after(path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_samples_of_a_step_that_a_nan_has_ended_are_valid_json_and_say_where_it_was(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path, decode)
    views = make_views([0.25, math.nan, 0.25, math.inf])
    for step in (4, 5):
        error = NonFiniteError("the gradient of lm_head.weight (learner)", step, ["example-1"])
        error.samples = (replace(sample(), views=views), replace(sample(), views=replace(views, nonfinite="the loss")))
        told = lines.write_bad_samples(error)
    path = tmp_path / "bad_samples.jsonl"
    assert told == f"The samples: {path}"
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in path.read_text().split("\n")[:-1])
    assert (first["nonfinite"], second["nonfinite"]) == ("the gradient of lm_head.weight (learner)", "the loss")
    assert first["divergence"] == [0.25, None, 0.25, None]
    assert (first["step"], first["prompt_ids"], "".join(first["tokens"])) == (5, [81, 63], "Hi\u2028!")
    (earlier,) = (tmp_path / "earlier").glob("bad_samples*")
    assert '"step": 4' in earlier.read_text()


def test_a_nan_on_a_full_disk_is_told_all_the_same(tmp_path: Path) -> None:
    error = NonFiniteError("the loss", 4, ["example-1"])
    error.samples = (sample(),)
    with no_file_beyond(5):
        told = JsonLines(tmp_path, decode).write_bad_samples(error)
    assert told == f"The samples could not be written to {tmp_path / 'bad_samples.jsonl'} (File too large)."


def test_an_error_keeps_its_place_and_its_step_where_it_crosses_a_process() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteError("the loss", 4, ["a"])))
    assert (error.place, error.step, error.samples) == ("the loss", 4, ())
