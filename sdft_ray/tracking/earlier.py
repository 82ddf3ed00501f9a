"""What a later start replaces in a run folder: it is moved to `earlier/` beside it, and never deleted or overwritten.

`summary.json` becomes `earlier/summary.1.json`, the next one `earlier/summary.2.json`; of a file of lines only those
go there that the later start takes back. Every module that writes into a run folder replaces a file this way alone.
"""

from pathlib import Path

EARLIER = "earlier"


def earlier_path(path: Path) -> Path:
    """A path in `earlier/` beside `path` that nothing has yet; makes the folder."""
    folder = path.parent / EARLIER
    folder.mkdir(exist_ok=True)
    number = 1
    while (free := folder / f"{path.stem}.{number}{path.suffix}").exists():
        number += 1
    return free


def move_to_earlier(path: Path) -> None:
    """Moves a file or folder out of the way, where there is one that holds anything."""
    if path.is_dir() or (path.is_file() and path.stat().st_size):
        path.rename(earlier_path(path))
