"""The command in this process, which has joined Ray and goes on after the run."""

import asyncio
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Self

import pytest

from sdft_ray.cluster.session import RaySession, check_resources
from sdft_ray.launch import main


class JoinedSession(RaySession):
    """Stands in for its base, which would join anew, and shut down the Ray of all other tests."""

    def __enter__(self) -> Self:
        check_resources(self._cluster, self._roles)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def watch(self) -> None:
        """Sees nothing: a Ray that these tests share and that dies ends all of them."""
        await asyncio.Event().wait()


def run_in_process(*overrides: str) -> tuple[int, str]:
    """The command's exit code, and what it has said."""
    said, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, logging_of_its_own(), redirect_stdout(said), redirect_stderr(said):
        for module in ("job", "evaluation", "check", "preflight_job"):
            patch.setattr(f"sdft_ray.cluster.{module}.RaySession", JoinedSession)
        patch.setattr(sys, "argv", ["sdft", *overrides])
        patch.setenv("HYDRA_FULL_ERROR", "1")  # as the command does, whose process ends
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, said.getvalue()


@contextmanager
def logging_of_its_own() -> Iterator[None]:
    """What a run does to the root logger is undone after it."""
    root = logging.root
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
