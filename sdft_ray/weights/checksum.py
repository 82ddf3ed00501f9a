"""Whether weights arrive as they were published: a checksum of one publication at both of its ends."""

from typing import Any

import numpy as np
import xxhash

from sdft_ray.records import Publication
from sdft_ray.tensors import to_array
from sdft_ray.weights.channel import WeightChannel, WeightKind, Workers, open_publication


def checksum(publication: Publication) -> str:
    """Of the names and the values of all parameters and buffers, as this process reads them (xxh3, 128 bits)."""
    digest = xxhash.xxh3_128()
    for name, tensor in open_publication(publication):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(to_array(tensor)).data)
    return digest.hexdigest()


async def checksums(channel: WeightChannel, kind: WeightKind, version: int, readers: Workers) -> dict[str, str]:
    """What each of `readers` that serves reads of these weights, by its name; none of them loads the weights."""
    read: dict[str, str] = {}

    async def note(actor: Any, publication: Publication) -> int:
        name, of_worker = await actor.checksum.remote(publication)
        read[name] = of_worker
        return publication.version

    await channel.deliver(kind, version, readers, note)
    return read
