"""The modes of a job on the terminal, and what Ctrl-C does."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from sdft_ray.config import Mode, TargetConfig, TargetKind
from sdft_ray.errors import ConfigError
from sdft_ray.launch import jobs
from sdft_ray.launch.jobs import follow_logs, show_status, stop_job, wants_to_stop
from sdft_ray.launch.targeting import OF_TARGETS, check_target
from sdft_ray.targets.following import Follower, Pace
from sdft_ray.targets.jobs import JobState, JobStatus, job_name
from sdft_ray.targets.run_file import Run

TARGET = TargetConfig(kind=TargetKind.RAY)


class FakeJob:
    """A job with a script: what it answers, one status after the other; the last one stays."""

    place = "the job"

    def __init__(self, *states: JobState | BaseException, log: Sequence[str] = ()):
        self._states = list(states)
        self._log = log
        self.is_stopped = False

    def submit(self, runs: Sequence[Run]) -> bool:
        return True

    def status(self) -> JobStatus:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, BaseException):
            raise state
        attempt = "" if state in (JobState.WAITING, JobState.MISSING) else "one"
        return JobStatus(state=state, words="", attempt=attempt)

    async def log(self, attempt: str) -> AsyncGenerator[str, None]:
        for piece in self._log:
            yield piece

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def as_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "Pace", lambda patience_s: Pace(patience_s, 0.01, 0.05, 0.01, 0.02))


def with_job(monkeypatch: pytest.MonkeyPatch, job: FakeJob) -> FakeJob:
    monkeypatch.setattr(jobs, "client_of", lambda name, runs_dir, target: job)
    return job


@pytest.mark.parametrize("state", [state for state in JobState if state.has_ended])
def test_the_command_ends_with_the_code_of_how_the_job_ended(
    state: JobState, as_job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_job(monkeypatch, FakeJob(JobState.WAITING, state))
    expected = JobState.STOPPED if state is JobState.MISSING else state  # it was there a moment ago
    assert follow_logs("one", "runs", TARGET) == expected.value
    with_job(monkeypatch, FakeJob(state))
    assert show_status("one", "runs", TARGET) == state.value


def test_no_two_states_have_one_code_and_none_has_that_of_a_refusal() -> None:
    codes = [state.value for state in JobState]
    assert len(set(codes)) == len(codes) and 1 not in codes and 2 not in codes
    assert all(state.has_ended == (state.value < 70) for state in JobState)


def test_text_that_comes_twice_over_two_streams_is_written_once() -> None:
    written: list[str] = []
    job = FakeJob(JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED, log=["a\n", "b\n"])
    pace = Pace(1, 0.01, 0.05, 0.01, 0.02)
    assert asyncio.run(Follower(job, written.append, lambda words: None, pace).follow()).state is JobState.SUCCEEDED
    assert "".join(written) == "a\nb\n"


def interrupted() -> str:
    raise KeyboardInterrupt


def nobody() -> str:
    raise EOFError


def test_ctrl_c_stops_a_job_only_where_the_user_says_so() -> None:
    assert wants_to_stop(lambda: "s") and wants_to_stop(lambda: " Stop ")
    assert not any(wants_to_stop(answer) for answer in (lambda: "", lambda: "d", interrupted, nobody))


def test_ctrl_c_without_a_terminal_leaves_the_job(
    as_job: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = with_job(monkeypatch, FakeJob(KeyboardInterrupt()))
    assert follow_logs("one", "runs", TARGET) == JobState.RUNNING.value
    assert not job.is_stopped and "detached from the job, which goes on" in capsys.readouterr().out


def test_ctrl_c_and_an_answer_stop_the_job(as_job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_job(monkeypatch, FakeJob(KeyboardInterrupt()))
    monkeypatch.setattr(jobs, "_asked_on_terminal", lambda: "s")
    assert follow_logs("one", "runs", TARGET) == JobState.STOPPED.value
    assert job.is_stopped


def test_stopping_what_is_not_there_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_job(monkeypatch, FakeJob(JobState.MISSING))
    assert stop_job("one", "runs", TARGET) == 0
    assert "stopped" not in capsys.readouterr().out


@pytest.mark.parametrize("mode", OF_TARGETS)
def test_a_mode_of_targets_is_refused_here_with_the_targets_there_are(mode: Mode) -> None:
    with pytest.raises(ConfigError, match="add target=ray, target=kuberay, target=slurm or target=ssh"):
        check_target(mode, TargetConfig())


def test_a_mode_that_a_target_lacks_is_refused_with_the_one_to_take() -> None:
    check_target(Mode.submit, TARGET)
    with pytest.raises(ConfigError, match=r"mode=check: is not one of target=slurm; .*--test-only"):
        check_target(Mode.check, TargetConfig(kind=TargetKind.SLURM))
    with pytest.raises(ConfigError, match="mode=train would run on this machine"):
        check_target(Mode.train, TARGET)


def test_every_target_calls_a_job_the_same() -> None:
    assert job_name("A_b/c.d") == "a-b-c-d"
    with pytest.raises(ConfigError, match="set name"):
        job_name("")
