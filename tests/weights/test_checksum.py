import numpy as np

from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.weights.checksum import checksum
from sdft_ray.weights.shared_memory import MemoryFile


def published(values: list[float], name: str = "a", num_buckets: int = 1) -> tuple[Publication, list[MemoryFile]]:
    """Of one parameter a bucket."""
    buckets, files = [], []
    for part in np.split(np.asarray(values, dtype=np.float32), num_buckets):
        files.append(MemoryFile.holding(part))
        entry = ParameterEntry(name=f"{name}{len(files)}", shape=part.shape, offset=0)
        buckets.append(Bucket(dtype="float32", entries=(entry,), array=files[-1].handle))
    return Publication(version=3, buckets=tuple(buckets)), files


def sum_of(*arguments, **settings) -> str:
    publication, files = published(*arguments, **settings)
    try:
        return checksum(publication)
    finally:
        for file in files:
            file.close()


def test_the_same_weights_have_one_checksum_wherever_they_lie() -> None:
    assert sum_of([1.0, 2.0, 3.0, 4.0]) == sum_of([1.0, 2.0, 3.0, 4.0])


def test_one_bit_another_name_and_another_cut_each_change_it() -> None:
    sums = {
        sum_of([1.0, 2.0]),
        sum_of([1.0, float(np.nextafter(np.float32(2.0), np.float32(3.0)))]),
        sum_of([1.0, 2.0], name="b"),
        sum_of([1.0, 2.0], num_buckets=2),
    }
    assert len(sums) == 4
