"""The tensors of a checkpoint: one safetensors file a rank, each tensor a fragment of one parameter.

A fragment is filed under its parameter's name, with the place where it begins. So a checkpoint depends on no layout:
another number of ranks, or another ZeRO stage, reads the pieces that make up its own fragments. The file is written
here, not by the safetensors library, which wants all tensors in memory at once and sums no bytes.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open

from sdft_ray.errors import CheckpointError
from sdft_ray.learner.manifest import SavedFile, write_file

PATTERN = "rank-*.safetensors"
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Piece(NamedTuple):
    """One tensor of a rank, and where it belongs."""

    kind: str  # "student", "average", a moment's name of the optimizer, "buffer" or "random"
    name: str  # of the parameter or buffer
    start: int  # of a fragment: the place of its first element in the flat parameter
    values: torch.Tensor


def rank_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank}.safetensors"


def write_pieces(path: Path, pieces: Iterable[Piece], metadata: Mapping[str, Any]) -> SavedFile:
    """Writes a rank's file; values on a GPU are copied to the host one after the other.

    Raises:
        OSError: it cannot be written.
    """
    pieces = list(pieces)
    header: dict[str, Any] = {
        "__metadata__": {"content": json.dumps({**metadata, "starts": {_key(piece): piece.start for piece in pieces}})}
    }
    end = 0
    for piece in pieces:
        begin, end = end, end + piece.values.numel() * piece.values.element_size()
        dtype, shape = DTYPE_NAMES[piece.values.dtype], list(piece.values.shape)
        header[_key(piece)] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # values begin at a multiple of eight
    return write_file(path, _parts(encoded, pieces))


def _parts(header: bytes, pieces: Iterable[Piece]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little")
    yield header
    for piece in pieces:
        flat = piece.values.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _key(piece: Piece) -> str:
    return f"{piece.kind}/{piece.name}"


class FragmentReader:
    """The files of all ranks, from which any rank of any layout reads its own part; a context manager."""

    def __init__(self, folder: Path):
        """Opens the files and reads what they hold, but no values.

        Raises:
            CheckpointError: a file is no rank's file.
        """
        self._folder = folder
        self._open = ExitStack()
        self._pieces: dict[str, list[tuple[int, int, Any, Path]]] = {}  # start, elements, file and its path, by key
        self.metadata: list[dict[str, Any]] = []  # of every rank
        for path in sorted(folder.glob(PATTERN)):
            try:
                file = self._open.enter_context(safe_open(path, framework="pt", device="cpu"))
                metadata = json.loads(file.metadata()["content"])
                for key, start in metadata["starts"].items():
                    num_elements = math.prod(file.get_slice(key).get_shape())
                    self._pieces.setdefault(key, []).append((start, num_elements, file, path))
            except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
                self._open.close()
                raise CheckpointError(f"{path} is no file of a checkpoint's rank ({error})") from error
            self.metadata.append(metadata)
        if not self.metadata:
            raise CheckpointError(f"{folder} has no files of ranks ({PATTERN})")
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def has(self, kind: str) -> bool:
        """True when there is anything of a kind."""
        return any(key.startswith(f"{kind}/") for key in self._pieces)

    def whole(self, kind: str) -> dict[str, torch.Tensor]:
        """All tensors of a kind that is not cut up, by name."""
        keys = [key for key in self._pieces if key.startswith(f"{kind}/")]
        return {key.partition("/")[2]: self._pieces[key][0][2].get_tensor(key) for key in keys}

    def read(self, kind: str, name: str, start: int, num_elements: int) -> torch.Tensor:
        """The elements [num_elements] of one parameter from `start` on.

        Raises:
            CheckpointError: they are not all there, or one of them is NaN or infinite.
        """
        key, parts, end = f"{kind}/{name}", [], start
        for begin, size, file, path in self._pieces.get(key, []):
            first, last = max(begin, end), min(begin + size, start + num_elements)
            if first == end and first < last:
                parts.append(file.get_slice(key)[first - begin : last - begin])
                end = last
                # Saved like that, its checksum is right. A sum is read in a fraction of the time.
                if not parts[-1].sum().isfinite() and not parts[-1].isfinite().all():
                    raise CheckpointError(
                        f"{path} holds NaN or infinite values, in {kind} of {name}, with which the first step would "
                        "spoil all weights; resume another step-N with resume=PATH."
                    )
        if end != start + num_elements:
            raise CheckpointError(
                f"{self._folder} holds {kind} of {name} up to element {end}, and not up to {start + num_elements}"
            )
        return torch.cat(parts) if len(parts) != 1 else parts[0]
