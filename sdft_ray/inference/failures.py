"""Why an engine of vLLM has failed, in vLLM's own words.

An engine is a process of its own. What its callers get is that it could not start, or is dead; the cause stands in the
log of the worker, to which the processes of its engine print.
"""

import json
import re
from pathlib import Path
from traceback import format_exception
from typing import NamedTuple

from sdft_ray.errors import EngineError, first_line

# Of a line that vLLM's logger prints: (EngineCore pid=17) ERROR 11-28 07:42:35 [core.py:1510] what is said
LOGGED_ERROR = re.compile(r"^\((?P<process>[^)]+ pid=\d+)\) ERROR [^\]]*\] ?(?P<said>.*)$")
FATAL = ("EngineCore failed to start", "EngineCore encountered a fatal error")
TRACEBACK = "Traceback (most recent call last):"
MARKER = re.compile(r"\s+[~^]+")  # below the part of a line that failed
SHOWN_LINES = 8  # of the traceback, its end

# What vLLM raises where it cannot start an engine: it has no class of its own for that.
CANNOT_START = (AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class EnginePlace(NamedTuple):
    """Where an engine runs, and what helps where it does not."""

    worker: str  # such as "rollout worker 0"
    log: Path  # of the worker
    log_start: int  # its size [bytes] before the engine was started
    model_path: str
    remedy: str  # instead of this engine


def start_error(place: EnginePlace, error: BaseException) -> EngineError:
    """What a person reads where the engine could not start; `error` is what vLLM has raised for it."""
    traceback = logged_traceback(place.log, place.log_start)
    if not traceback:  # not the engine's process, but the worker that starts it has failed
        with place.log.open("a") as log:
            log.write("".join(format_exception(error)))
    cause = _cause(traceback) if traceback else _explained(error)
    return _error(place, "cannot start", cause, traceback)


def death_error(place: EnginePlace) -> EngineError:
    """What a person reads where the engine has died at work."""
    traceback = logged_traceback(place.log, place.log_start)
    killed = (
        "its process ended without an error of its own, as one does that is killed, for want of memory for instance"
    )
    return _error(place, "has died", _cause(traceback) if traceback else killed, traceback)


def family(model_path: str) -> str:
    """The architecture and model_type that a model folder names."""
    config = json.loads((Path(model_path) / "config.json").read_text())
    return f"{', '.join(config.get('architectures') or ['a network'])} (model_type={config.get('model_type')})"


def logged_traceback(log: Path, start: int) -> list[str]:
    """The frames and the exception that began the engine's end, without the logger's prefixes; [] where there are none.

    Of exceptions that have led to one another the first is taken, which is the cause of the others.
    """
    text = log.read_bytes()[start:].decode(errors="replace") if log.is_file() else ""
    errors = [match for line in text.splitlines() if (match := LOGGED_ERROR.match(line))]
    fatal = max((index for index, match in enumerate(errors) if match["said"].startswith(FATAL)), default=len(errors))
    said = [match["said"] for match in errors[fatal:] if match["process"] == errors[fatal]["process"]]
    if TRACEBACK not in said:
        return []
    lines = [line for line in said[said.index(TRACEBACK) + 1 :] if not MARKER.fullmatch(line)]
    end = next((index for index, line in enumerate(lines) if not line.startswith(" ")), len(lines) - 1)
    return lines[: end + 1]


def _error(place: EnginePlace, what: str, cause: str, traceback: list[str]) -> EngineError:
    shown = "".join(f"\n  {line}" for line in traceback[-SHOWN_LINES:])
    return EngineError(
        f"{place.worker}: vLLM's engine for {family(place.model_path)} {what}: {cause.rstrip('.')}. Mend that, or "
        f"{place.remedy}.\nIts log: {place.log}{', which says' if shown else ''}{shown}"
    )


def _cause(traceback: list[str]) -> str:
    """The last line; where it is no more than the name of an exception, with the line of code that raised it."""
    *code, cause = traceback
    if ":" in cause:
        return cause
    return f"{cause} ({code[-1].strip()})" if code else cause


def _explained(error: BaseException) -> str:
    """Class and message of an error that vLLM's checks of its settings have raised: those begin with a count."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and "validation error" in lines[0]:
        return lines[1].strip().partition(" [type=")[0]
    return f"{type(error).__name__}: {first_line(error)}"
