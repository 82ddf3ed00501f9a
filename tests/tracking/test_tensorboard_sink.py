"""Event files are read back by TensorBoard's own reader."""

import os
from pathlib import Path

from sdft_ray.tracking.tensorboard_sink import FOLDER, TensorBoardSink

LOSS = "learner/loss"


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of every scalar, as the program shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / FOLDER)).Reload()
    if tag not in events.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in events.Scalars(tag)]


def take_steps(sink: TensorBoardSink, first: int, last: int, loss: float) -> None:
    for step in range(first, last + 1):
        sink.log_step(step, 0.0, {LOSS: loss, "loop/step_s": 2.0}, ())


def test_steps_and_evaluations_are_read_back_before_the_run_has_ended(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, None, print)
    sink.log_evaluation(0, 0.0, {"evaluation/taught_accuracy": 0.25})
    take_steps(sink, 1, 3, 0.5)
    sink.log_evaluation(3, 0.0, {"evaluation/taught_accuracy": 0.75})
    assert scalars(tmp_path, LOSS) == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(tmp_path, "evaluation/taught_accuracy") == [(0, 0.25), (3, 0.75)]


def test_a_resumed_run_has_every_step_once_and_leaves_earlier_files_alone(tmp_path: Path) -> None:
    killed = TensorBoardSink(tmp_path, None, print)
    take_steps(killed, 1, 5, 0.5)
    (first,) = (tmp_path / FOLDER).iterdir()
    before = first.read_bytes()
    os.rename(first, first.with_name("events.out.tfevents.0000000001.here.1.0"))  # it began before, as a resumed run's
    resumed = TensorBoardSink(tmp_path, 2, print)
    take_steps(resumed, 3, 4, 0.25)
    resumed.close()
    assert scalars(tmp_path, LOSS) == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]
    assert sorted((tmp_path / FOLDER).iterdir())[0].read_bytes() == before


def test_steps_that_are_taken_again_in_the_same_run_count_once(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, None, print)
    take_steps(sink, 1, 5, 0.5)
    take_steps(sink, 4, 6, 0.125)
    sink.close()
    assert scalars(tmp_path, LOSS) == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.125), (5, 0.125), (6, 0.125)]


def test_a_folder_that_is_deleted_is_said_and_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    sink = TensorBoardSink(tmp_path, None, said.append)
    take_steps(sink, 1, 1, 0.5)
    for file in (tmp_path / FOLDER).iterdir():
        file.unlink()
    (tmp_path / FOLDER).rmdir()
    take_steps(sink, 2, 3, 0.5)
    assert len(said) == 1 and said[0].startswith("not written")
