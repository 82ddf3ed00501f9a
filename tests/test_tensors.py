"""Tensors cross a process as views of arrays."""

import numpy as np
import psutil
import pytest
import torch

from sdft_ray.tensors import DTYPES, dtype_name, one_thread, release_pages, to_array, to_tensor


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_tensor_comes_back_bit_by_bit_without_a_copy(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, -0.0, 1.5, float("inf")], [3e38, 1e-38, -2.25, float("nan")]]).to(dtype)
    array = to_array(tensor)
    back = to_tensor(array)
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))
    assert back.data_ptr() == tensor.data_ptr()


def test_shared_memory_that_must_not_be_written_is_taken_as_it_is() -> None:
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    assert to_tensor(array).tolist() == [0, 1, 2, 3]


def test_a_dtype_travels_under_its_own_name() -> None:
    assert [dtype_name(dtype) for dtype in DTYPES.values()] == list(DTYPES)


def test_one_thread_holds_for_its_block_only_also_when_that_fails() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="in the block"), one_thread():
            assert torch.get_num_threads() == 1
            raise ValueError("in the block")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_memory_that_is_given_back_is_zero_and_there_again() -> None:
    values = torch.full((4 * 2**20,), 7.0)
    before = psutil.Process().memory_info().rss
    release_pages(values)
    assert before - psutil.Process().memory_info().rss > 0.9 * values.nbytes
    assert values[1024:-1024].sum() == 0, "the first and last page may hold others"
    values.fill_(3.0)
    assert values.mean() == 3.0
    release_pages(torch.ones(2))  # smaller than a page
