import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdft_ray.tracking.console import ConsoleSink

STEP = {
    "learner/loss": 0.81234,
    "learner/divergence_nats": 0.5,
    "learner/grad_norm": 1.25,
    "learner/train_tokens": 400.0,
    "rollout/completion_tokens_mean": 12.0,
    "loop/step_s": 2.0,
}

SUMMARY: dict[str, Any] = {
    "wall_s": 3725.0,
    "setup_s": 61.0,
    "peak_gpu_memory_gib": {},
    "verdict": "the bottleneck is rollout, 65% of a step",
    "evaluation": {
        "taught_accuracy": {"before": 0.0, "after": 0.875},
        "prior_logprob": {"before": -5.4, "after": -5.35},
    },
}


def plain_console() -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, highlight=False, width=80), output


def test_a_step_is_one_plain_line_where_there_is_no_terminal() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=40, console=console)
    sink.log_step(10, 0.0, STEP, ())
    sink.close()
    assert output.getvalue() == (
        "step 10/40  loss 0.8123  divergence 0.5000  grad norm 1.25  completion 12 tokens  2.0 s  "
        "200 tokens/s  1 min 0 s left\n"
    )


def test_the_divergence_of_rehearsal_stands_beside_that_of_the_batch() -> None:
    console, output = plain_console()
    ConsoleSink(num_steps=40, console=console).log_step(10, 0.0, STEP | {"rehearsal/divergence_nats": 0.0625}, ())
    assert "divergence 0.5000  rehearsed 0.0625  grad norm" in output.getvalue()


def test_standard_output_that_is_no_terminal_gets_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sink = ConsoleSink(num_steps=2)
    with sink.phase("starting rollout"):
        pass
    sink.log_step(1, 0.0, STEP, ())
    sink.show_summary(SUMMARY, "runs/demo")
    output = capsys.readouterr().out
    assert output.startswith("starting rollout ...\nstarting rollout ... 0 s\n")
    assert "\x1b" not in output


def test_a_terminal_gets_a_bar_and_the_same_line_above_it() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, highlight=False, width=160)
    sink = ConsoleSink(num_steps=40, console=console)
    with sink:
        with sink.phase("starting rollout"):
            pass
        sink.log_step(10, 0.0, STEP, ())
    text = output.getvalue()
    assert "starting rollout ... 0 s" in text
    assert "step 10/40  loss 0.8123" in text
    assert "10/40" in text
    assert "200 tokens/s  1 min 0 s left" in text
    assert "\x1b" in text


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_a_bar_where_rich_can_draw_one_and_plain_lines_otherwise(
    widgets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The widgets are a fake: the tests' environment has no notebook."""
    if widgets:
        (tmp_path / "ipywidgets.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
    sink = ConsoleSink(num_steps=2, console=Console(force_jupyter=True, force_terminal=False, file=io.StringIO()))
    assert sink._progress.disable != widgets


def test_a_phase_that_fails_says_so_and_its_error_goes_on() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=1, console=console)
    with pytest.raises(RuntimeError), sink.phase("starting [teacher]"):
        raise RuntimeError
    sink.close()
    assert "starting [teacher] ... failed after 0 s" in output.getvalue()


def test_the_summary_shows_before_and_after_and_where_the_run_lies() -> None:
    console, output = plain_console()
    long_folder = "/somewhere/" + "x" * 100
    sink = ConsoleSink(num_steps=1, console=console)
    sink.show_summary(SUMMARY, long_folder)
    rows = [line.split() for line in output.getvalue().splitlines()]
    assert ["taught", "accuracy", "0.0%", "87.5%"] in rows
    prior = "prior logprob -5.400 nats per token -5.350 nats per token"
    assert prior.split() in rows
    assert f"run folder  {long_folder}\n" in output.getvalue()
    assert "wall time   1 h 2 min, 1 min 1 s of it set-up\n" in output.getvalue()
    assert output.getvalue().endswith("verdict     the bottleneck is rollout, 65% of a step\n")


def test_the_summary_shows_what_each_role_has_reserved_of_its_gpus() -> None:
    console, output = plain_console()
    peaks = {"learner": {"max": 40.25, "sum": 161.0}, "rollout": {"max": 72.0, "sum": 144.0}}
    ConsoleSink(num_steps=1, console=console).show_summary(SUMMARY | {"peak_gpu_memory_gib": peaks}, "runs/demo")
    line = "GPU memory  learner 40.2, rollout 72.0 GiB reserved at most, on the fullest GPU"
    assert line in output.getvalue().splitlines()


def test_a_summary_without_a_step_has_no_verdict_to_show() -> None:
    console, output = plain_console()
    ConsoleSink(num_steps=1, console=console).show_summary(SUMMARY | {"verdict": None}, "runs/demo")
    assert "verdict" not in output.getvalue()


def test_an_evaluation_is_one_line() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=1, console=console)
    sink.log_evaluation(0, 0.0, {"evaluation/taught_accuracy": 0.25, "evaluation/prior_logprob_nats": -5.4})
    sink.close()
    expected = "evaluation after step 0: taught accuracy 25.0%, prior logprob -5.400 nats per token\n"
    assert output.getvalue() == expected


def test_shares_and_numbers_of_answers_are_shown_as_such() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=1, console=console)
    metrics = {"open_lenient_accuracy": 0.5, "open_pass_at_4": 0.25, "open_unscored": 3.0, "judge_requests": 12.0}
    sink.log_evaluation(0, 0.0, {f"evaluation/{key}": value for key, value in metrics.items()})
    sink.close()
    assert output.getvalue() == (
        "evaluation after step 0: open lenient accuracy 50.0%, open pass at 4 25.0%, open unscored 3, "
        "judge requests 12\n"
    )


def test_time_left_of_a_resumed_run_counts_the_steps_that_are_left() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=100, console=console)
    sink.log_step(98, 0.0, STEP, ())
    sink.close()
    assert output.getvalue().endswith("4 s left\n")


def test_retention_stands_beside_the_evaluation_and_before_and_after_in_the_table() -> None:
    console, output = plain_console()
    sink = ConsoleSink(num_steps=1, console=console)
    sink.log_evaluation(5, 0.0, {"retention/base_student_kl_nats": 0.0214})
    sink.show_summary(SUMMARY | {"evaluation": {"retention/base_student_kl": {"before": 0.0, "after": 0.0214}}}, "runs")
    assert "evaluation after step 5: retention base student kl 0.021 nats per token\n" in output.getvalue()
    table = "retention base student kl 0.000 nats per token 0.021 nats per token"
    assert table.split() in [line.split() for line in output.getvalue().splitlines()]


def test_an_evaluation_alone_is_a_table_and_a_prior_capability_keeps_its_role() -> None:
    console, output = plain_console()
    metrics = {"evaluation/prior_logprob_nats": -1.0, "harness/hellaswag_accuracy": 0.35}
    ConsoleSink(num_steps=0, console=console).show_evaluation(metrics, "runs/looked-at")
    lines = [" ".join(line.split()) for line in output.getvalue().splitlines()]
    assert lines == [
        "prior logprob -1.000 nats per token",
        "harness hellaswag accuracy 35.0%",
        "run folder runs/looked-at",
    ]


def test_a_terminal_shows_how_far_something_is_and_no_unknown_total() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, highlight=False, width=160)
    sink = ConsoleSink(num_steps=40, console=console)
    with sink, sink.counting("evaluating") as update, sink.phase("starting"):
        sink._progress.refresh()
        update(7, 31)
        sink._progress.refresh()
    text = output.getvalue()
    assert "7/31" in text
    assert "/?" not in text


def test_what_goes_on_besides_steps_can_be_asked_also_without_a_terminal() -> None:
    sink = ConsoleSink(num_steps=40, console=plain_console()[0])
    with sink.phase("starting 2 rollout workers"), sink.counting("evaluating after step 0") as count:
        count(3, 8)
        sink.log_step(1, 0.0, STEP, ())
        assert sink.going_on() == ("starting 2 rollout workers", "evaluating after step 0 3 of 8")
    assert sink.going_on() == ()


def test_without_a_terminal_a_line_now_and_then_says_how_far_something_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdft_ray.tracking.console.COUNT_EVERY_S", 0.0)
    console, output = plain_console()
    with ConsoleSink(num_steps=1, console=console).counting("evaluating") as update:
        update(7, 31)
    assert output.getvalue() == "evaluating ...\nevaluating ... 7 of 31\nevaluating ... 0 s\n"


def test_everything_that_is_said_goes_to_the_log_tables_included(caplog: pytest.LogCaptureFixture) -> None:
    console, _ = plain_console()
    with caplog.at_level("INFO"):
        sink = ConsoleSink(num_steps=40, console=console)
        sink.log_step(10, 0.0, STEP, ())
        sink.show_summary(SUMMARY, "runs/demo")
    messages = [record.message for record in caplog.records]
    assert messages[0].startswith("step 10/40  loss 0.8123")
    assert any("taught accuracy" in message and "87.5%" in message for message in messages)
    assert "run folder  runs/demo" in messages
