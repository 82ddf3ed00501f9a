"""The manifest of a checkpoint: size and checksum of every file, by which damage is found before anything is resumed.

A checksum (xxh3, 128 bits) is that of the bytes on their way to the disk, so it also finds what was written wrongly. It
guards against accidents, not against somebody who changes the file and its manifest.
"""

import errno
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from sdft_ray.errors import CheckpointError

MANIFEST_FILE = "manifest.json"
CHUNK_BYTES = 2**24  # written, read and summed at a time
NUM_READERS = 8  # files that are held against their checksums at a time
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of file systems that have nothing to do for a folder


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFile:
    """One file of a checkpoint as it was written."""

    name: str
    num_bytes: int
    checksum: str  # hexadecimal


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> SavedFile:
    """Writes a new file and returns once it is on the disk.

    Raises:
        OSError: it cannot be written, or exists.
    """
    digest, num_bytes = xxhash.xxh3_128(), 0
    with path.open("xb") as file:
        for part in parts:
            for begin in range(0, len(part), CHUNK_BYTES):
                chunk = part[begin : begin + CHUNK_BYTES]
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return SavedFile(name=path.name, num_bytes=num_bytes, checksum=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, files: Sequence[SavedFile]) -> None:
    """Writes the manifest of a folder that holds `files`. Raises as `write_file`."""
    listed = [asdict(file) for file in sorted(files, key=lambda file: file.name)]
    content = {"files": listed, "checksum": _checksum_of(listed)}
    write_file(folder / MANIFEST_FILE, [json.dumps(content, indent=2).encode()])


def read_manifest(folder: Path) -> list[SavedFile]:
    """What the manifest lists.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_bytes())
        if content["checksum"] != _checksum_of(content["files"]):
            raise CheckpointError(f"{path} is damaged: it is not what its own checksum says")
        return [SavedFile(**file) for file in content["files"]]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the checkpoint is not whole, or older than manifests") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no manifest") from error


def check_sound(folder: Path) -> None:
    """Reads every file of a checkpoint and holds it against the manifest.

    Raises:
        CheckpointError: names the first file that is missing, cut, or not what was written.
    """
    files = read_manifest(folder)
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for damage in readers.map(lambda file: _damage(folder, file), files):
            if damage:
                raise CheckpointError(damage)


def _damage(folder: Path, file: SavedFile) -> str:
    """What is wrong with one file; "" for nothing."""
    path, digest = folder / file.name, xxhash.xxh3_128()
    try:
        num_bytes = path.stat().st_size
        if num_bytes != file.num_bytes:
            return f"{path} has {num_bytes} bytes of {file.num_bytes}"
        with path.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return "" if digest.hexdigest() == file.checksum else f"{path} is damaged: it is not what was written"


def _checksum_of(listed: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(listed, sort_keys=True).encode())
