"""Where mode=top and mode=stacks find a run: its folder, or the Ray cluster that its driver tells where it is."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sdft_ray.cluster.run_lock import LOCK_FILE, Holder, holder_of
from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.tracking.run_view import NAMESPACE, read_view, unpacked
from sdft_ray.watch.frame import Look

TIMEOUT_S = 10.0  # of the head node
SILENT_IS_GONE_S = 60.0  # where nobody can look whether the driver is there
DEPTHS = ("*", "*/*", "*/*/*")  # of run folders: a name may have slashes


class Source(Protocol):
    """A run that can be looked at."""

    @property
    def name(self) -> str:
        """As mode=top is told it."""
        ...

    def look(self) -> Look:
        """What is known of it now."""
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A run whose folder can be read."""

    folder: Path
    name: str

    @property
    def holder(self) -> Holder | None:
        """The driver that holds the folder, or has died with it."""
        return holder_of(self.folder, time.time())

    def look(self) -> Look:
        """See `Source`; a status that another driver has left is none."""
        holder, view = self.holder, read_view(self.folder)
        status, is_alive = view.status, holder is not None and holder.is_alive
        if holder is not None and status is not None:
            is_own = (status.process_id, status.host) == (holder.process_id, holder.host)
            view = replace(view, status=status if is_own or not is_alive else None)
        return Look(view=replace(view, name=self.name), is_alive=is_alive, now=time.time())


class ClusterSource:
    """A run on a Ray cluster, from a machine that need not see its folder; nothing is started there."""

    def __init__(self, address: str, name: str):
        """Connects to the head node.

        Args:
            address: HOST:PORT of the head node.
            name: of the run; "" is the one that was told of last.

        Raises:
            ClusterError: nobody answers, the token is missing, or no such run has told where it is.
        """
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        from sdft_ray.cluster.session import prepare_to_join

        prepare_to_join(address)
        self._address = address
        self._client: Any = GcsClient(address=address)
        self.name = name or self._newest()
        self.look()

    def look(self) -> Look:
        """See `Source`.

        Raises:
            ClusterError: the head node does not answer, or no such run has told where it is.
        """
        look = self._look(self.name)
        if look is None:
            there = ", ".join(sorted(self._names())) or "none"
            raise ClusterError(
                f"name={self.name}: no run of this name has begun its first step on the Ray cluster at "
                f"RAY_ADDRESS={self._address}; there are: {there}."
            )
        return look

    def _look(self, name: str) -> Look | None:
        content = self._asked(lambda: self._client.internal_kv_get(name.encode(), NAMESPACE, TIMEOUT_S))
        if content is None:
            return None
        view, now = unpacked(content), time.time()
        assert view.status is not None
        is_alive = not view.status.ended and now - view.status.written_at < SILENT_IS_GONE_S
        return Look(view=view, is_alive=is_alive, now=now)

    def _names(self) -> list[str]:
        keys = self._asked(lambda: self._client.internal_kv_keys(b"", NAMESPACE, TIMEOUT_S))
        return [key.decode() for key in keys]

    def _newest(self) -> str:
        looks = [look for name in self._names() if (look := self._look(name)) is not None]
        if not looks:
            raise ClusterError(f"RAY_ADDRESS={self._address}: no run has begun its first step on this Ray cluster.")
        newest = max(looks, key=lambda look: (look.is_alive, look.view.status.written_at if look.view.status else 0))
        return newest.view.name

    def _asked(self, ask: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return ask()
        except RayError as error:
            problem = f"its head node does not answer ({type(error).__name__})"
            raise ClusterError(f"RAY_ADDRESS={self._address}: {problem}; look whether it runs.") from error


def find_run(name: str, runs_dir: str) -> FolderSource | ClusterSource:
    """The run of a name; without one the newest that is alive.

    Raises:
        ConfigError: there is no such folder, or no run in runs_dir is alive, and RAY_ADDRESS names no cluster.
        ClusterError: it names one that does not answer, or that has no such run.
    """
    root = Path(runs_dir).absolute()
    address = os.environ.get("RAY_ADDRESS", "")
    is_elsewhere = ":" in address
    if name and (root / name).is_dir():
        return FolderSource(root / name, name)
    if not name:
        alive = sorted(_alive(root), key=lambda folder: (folder / LOCK_FILE).stat().st_mtime)
        if alive:
            return FolderSource(alive[-1], str(alive[-1].relative_to(root)))
    if is_elsewhere:
        return ClusterSource(address, Path(name).name)
    remedy = "or set RAY_ADDRESS to HOST:PORT of the head node of the Ray cluster that it runs on"
    if name:
        raise ConfigError("name", name, f"there is no run folder {root / name}", f"set runs_dir, {remedy}")
    problem = f"no run in {root} is alive"
    raise ConfigError("name", "", problem, f"name one that has ended, such as name=billing, set runs_dir, {remedy}")


def _alive(root: Path) -> Iterator[Path]:
    for depth in DEPTHS:
        for lock in root.glob(f"{depth}/{LOCK_FILE}"):
            holder = holder_of(lock.parent, time.time())
            if holder is not None and holder.is_alive:
                yield lock.parent
