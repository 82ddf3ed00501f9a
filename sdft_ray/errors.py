"""The failures a user can mend. Each says what is wrong, with which value, and what to do about it.

Anything else that goes wrong is a bug or a dead machine and keeps its traceback.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

SOURCE_KEY = "data.source"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # whatever file it was: the system does not say
WITH_LINES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".yaml")  # kinds of files whose places are their lines


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_our_words(error: BaseException, folder: Path) -> BaseException:
    """A `StorageError` where the system has refused a file of a run folder, or has no room; else the error itself."""
    if not isinstance(error, OSError):
        return error
    is_ours = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(folder)
    if error.errno not in NO_ROOM and not is_ours:
        return error
    return StorageError(
        f"{error.filename if is_ours else folder} cannot be written ({error.strerror}): make room there or mend the "
        "disk, then start again; training goes on with resume=auto."
    )


class SdftError(Exception):
    """Base of every error whose message alone tells the user what to do; shown without a traceback."""

    log_says_more = False  # whether the logs of the workers are needed to understand it

    def of(self, place: str, source: str = "") -> Self:
        """The same error with the place it belongs to before its message.

        An error of data.source names `source` in its stead, the setting from which that came.
        """
        message = str(self)
        if source and message.startswith(f"{SOURCE_KEY}="):
            self.args = (message.replace(f"{SOURCE_KEY}=", f"{source}="),)
        else:
            self.args = (f"{place}: {message}",)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Crosses a process as class, message and attributes: subclasses take other arguments than their message."""
        return (_restore, (type(self), str(self)), self.__dict__)

    def adding(self, sentence: str) -> Self:
        """The same error with one more sentence."""
        self.args = (f"{self} {sentence}",)
        return self


def _restore(kind: type[SdftError], message: str) -> SdftError:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


class ConfigError(SdftError):
    """A setting holds a value the run cannot use."""

    def __init__(self, key: str, value: object, problem: str, remedy: str):
        super().__init__(f"{key}={value}: {problem}; {remedy}.")


class DataError(SdftError):
    """A row of a data set cannot be used."""

    def __init__(self, source: str, line: int, problem: str, remedy: str):
        super().__init__(f"{source}, {line_or_row(source)} {line}: {problem}; {remedy}.")


def line_or_row(source: str) -> str:
    """What is counted in a source: the lines of a text, or the rows of any other file, folder or set."""
    return "line" if source.lower().removesuffix(".gz").endswith(WITH_LINES) else "row"


class ModelError(SdftError):
    """A model cannot be found, or its parts do not fit together."""


class ClusterError(SdftError):
    """The machines that were asked for are not there, or cannot be reached."""


class RayLostError(ClusterError):
    """The Ray that a run has started for itself has died, and nothing can be started in it any more."""


class CheckpointError(SdftError):
    """A checkpoint cannot be resumed with the settings of this run."""


class StorageError(SdftError):
    """A file of a run cannot be written: there is no room, or it was taken away."""


class EndpointError(SdftError):
    """A request to a chat endpoint brought no reply; `is_general` says that any other would fail as well."""

    def __init__(self, message: str, *, is_general: bool):
        super().__init__(message)
        self.is_general = is_general


class WorkerError(SdftError):
    """A worker failed; the first line of its own error is in the message, the rest in its log file."""

    log_says_more = True


class WorkerLostError(WorkerError):
    """A worker is dead or does not answer; the message names its role, its node and the cause."""


class PayloadLostError(WorkerError):
    """A worker cannot have what another one made, whose node or process is gone."""


class EngineError(WorkerError):
    """An engine of vLLM cannot start with this model, or has died; the cause, in vLLM's words, is in the message."""


class WeightVersionError(SdftError):
    """A worker does not hold the weight version that the run relies on."""

    log_says_more = True


class GuardError(SdftError):
    """Two parts of a run that have to compute the same do not: training on, or using what it wrote, would be wrong."""

    log_says_more = True


class NonFiniteError(SdftError):
    """A number of training is NaN or infinite; training on would destroy the weights."""

    def __init__(self, place: str, step: int, example_ids: Sequence[str], remedy: str = "lower learner.learning_rate"):
        """`place` is what is NaN or infinite, and in which role."""
        self.place = place
        self.step = step
        self.samples: tuple[Any, ...] = ()  # reports of the samples, where the driver has added them
        shown = ", ".join(example_ids[:8]) + (", ..." if len(example_ids) > 8 else "")
        super().__init__(
            f"NaN or infinite: {place} in step {step}, samples: {shown}. The step was not taken: {remedy}, or look at "
            "these samples; resume=auto then goes on from the newest checkpoint, and begins again where there is none."
        )


class PreflightError(SdftError):
    """Something that a run relies on was found wrong before its workers were started."""


class AlarmError(SdftError):
    """An alarm was raised, and `tracking.alarms.stop` has it end the run."""


class BrokenWeightsError(SdftError):
    """A weight of the student is NaN or infinite, so nothing is written of it."""

    def __init__(self, name: str, step: int):
        super().__init__(
            f"the weight {name} of the student is NaN or infinite after step {step}, so it was not saved; checkpoints "
            "from before are as they were. Lower learner.learning_rate, and go on with resume=auto."
        )
