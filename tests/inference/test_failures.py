"""An engine that fails is told in vLLM's own words, which stand in the log of its worker."""

import json
import pickle
from pathlib import Path

import pytest

from sdft_ray.errors import EngineError
from sdft_ray.inference.failures import EnginePlace, death_error, logged_traceback, start_error

CORE, MAIN = (
    "(EngineCore pid=17) ERROR 11-28 07:42:35 [core.py:1510] ",
    "(MainProcess pid=9) ERROR 11-28 07:42:36 [a.py:9] ",
)
ROOT = ["Traceback (most recent call last):", '  File "lfm2.py", line 256, in __init__', "    dim=config.conv_dim,"]
CAUSE = "AttributeError: 'Lfm2Config' object has no attribute 'conv_dim'"
FOLLOWED = [
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    ROOT[0],
    "OtherError: later",
]


def logged(*lines: str, prefix: str = CORE) -> str:
    return "".join(f"{prefix}{line}\n" for line in lines)


@pytest.fixture
def place(tmp_path: Path) -> EnginePlace:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2"}))
    log = tmp_path / "rollout-0.log"
    log.write_text("of a start before\n" + logged("EngineCore failed to start.", *ROOT, "OldError: of a start before"))
    return EnginePlace("rollout worker 0", log, log.stat().st_size, str(tmp_path), "take another model")


def say(place: EnginePlace, text: str) -> None:
    with place.log.open("a") as log:
        log.write(text)


def test_a_start_that_failed_names_worker_family_cause_remedy_and_the_end_of_its_log(place: EnginePlace) -> None:
    say(place, "INFO loading\n" + logged("EngineCore failed to start.", *ROOT, CAUSE, *FOLLOWED))
    say(place, logged(ROOT[0], "RuntimeError: Engine core initialization failed.", prefix=MAIN))
    error = start_error(place, RuntimeError("Engine core initialization failed. See root cause above."))
    sentence, log, *shown = str(error).splitlines()
    assert sentence == (
        "rollout worker 0: vLLM's engine for Lfm2ForCausalLM (model_type=lfm2) cannot start: "
        f"{CAUSE}. Mend that, or take another model."
    )
    assert log == f"Its log: {place.log}, which says"
    assert [line.strip() for line in shown] == [line.strip() for line in [*ROOT[1:], CAUSE]]


def test_the_error_is_the_same_behind_a_border_between_processes(place: EnginePlace) -> None:
    error = pickle.loads(pickle.dumps(death_error(place)))
    assert isinstance(error, EngineError) and "has died" in str(error)


def test_settings_that_vllm_refuses_at_once_are_told_without_their_frame(place: EnginePlace) -> None:
    refused = ValueError(
        "1 validation error for VllmConfig\n"
        "  Assertion failed, Chunked prefill is required. [type=assertion_error, input_value=ArgsKwargs(...)]\n"
        "    For further information visit a page"
    )
    assert "cannot start: Assertion failed, Chunked prefill is required. Mend that" in str(start_error(place, refused))
    assert "cannot start: ValueError: no kernel. Mend" in str(start_error(place, ValueError("no kernel\nmore")))


def test_an_assertion_without_a_message_is_told_with_its_line_of_code(place: EnginePlace) -> None:
    lines = [*ROOT[:2], "    assert self.moe_kernel is not None", "           ^^^^^^^^^^^^^^^^^^^^^", "AssertionError"]
    say(place, logged("EngineCore encountered a fatal error.", *lines))
    assert "has died: AssertionError (assert self.moe_kernel is not None). Mend" in str(death_error(place))


def test_of_two_failures_the_fatal_one_is_told(place: EnginePlace) -> None:
    say(place, logged("Invocation of a method failed", *ROOT, "ValueError: survived"))
    say(place, logged("EngineCore encountered a fatal error.", *ROOT, CAUSE))
    assert logged_traceback(place.log, place.log_start)[-1] == CAUSE


def test_an_engine_that_was_killed_is_told_to_have_been_killed(place: EnginePlace) -> None:
    say(place, "INFO sampling\n")
    assert "has died: its process ended without an error of its own, as one does that is killed" in str(
        death_error(place)
    )


def test_a_log_on_another_node_is_no_second_failure(place: EnginePlace) -> None:
    place.log.unlink()
    assert "cannot start: OSError: no file" in str(start_error(place, OSError("no file")))
