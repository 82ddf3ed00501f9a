"""What Rays that have ended leave: a session folder each, some MB of logs, which Ray itself never removes.

A module of its own, since it alone deletes: what it takes for dead has to be.
"""

import os
import re
import shutil
import socket
import time
from pathlib import Path

SESSION = re.compile(r"session_[\d_-]+_(\d+)")  # with the process id of who has started it
QUIET_S = 600.0  # a session that begins has no sockets yet, but writes


def remove_old_sessions(root: Path) -> str:
    """Removes the sessions below `root` that have ended, but for the newest, whose logs may be wanted.

    Returns:
        A line that says so; "" where there was none.
    """
    ended = sorted((folder for folder in root.glob("session_*") if _has_ended(folder)), key=lambda folder: folder.name)
    for folder in ended[:-1]:
        shutil.rmtree(folder, ignore_errors=True)  # another start may do the same
    if len(ended) < 2:
        return ""
    return f"removed        {len(ended) - 1} sessions of Rays that have ended, from {root}"


def _has_ended(folder: Path) -> bool:
    """True when nobody is there: no process of that id, also of another container, and nobody has written for long."""
    match = SESSION.fullmatch(folder.name)
    if match is None or folder.is_symlink() or Path(f"/proc/{match[1]}").exists():
        return False
    written_at = max((path.stat().st_mtime for path in (folder, *folder.glob("logs/*"))), default=0.0)
    return time.time() - written_at > QUIET_S and not _answers(folder / "sockets" / "raylet")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asked:
        return asked.connect_ex(os.fsencode(path)) == 0
