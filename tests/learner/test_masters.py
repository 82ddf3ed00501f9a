"""The masters that an engine hands out."""

from types import SimpleNamespace

import torch

from sdft_ray.learner.engine import master_fragment
from sdft_ray.records import ParameterEntry
from sdft_ray.weights.fragments import place


def test_memory_that_masters_are_copied_into_again_and_again_holds_no_graph() -> None:
    master = torch.ones(4, requires_grad=True)  # as ZeRO 1 and 2 keep it
    param = torch.nn.Parameter(torch.ones(4))
    param._hp_mapping = SimpleNamespace(  # type: ignore[attr-defined]
        lp_fragment_address=SimpleNamespace(start=0), get_hp_fragment=lambda: master
    )
    flat = torch.zeros(4)
    for _ in range(2):
        fragment = master_fragment("weight", param, 0, 1)
        assert fragment is not None
        place((ParameterEntry(name="weight", shape=(4,), offset=0),), [fragment], flat)
    assert flat.tolist() == [1, 1, 1, 1]
    assert flat.grad_fn is None
    assert fragment.values.data_ptr() == master.data_ptr()
