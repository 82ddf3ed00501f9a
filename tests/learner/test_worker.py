"""Whether the ranks of a learner reach one another, which is asked before they wait for each other."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdft_ray.errors import ClusterError
from sdft_ray.learner import worker
from sdft_ray.learner.worker import LearnerWorker


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearnerWorker]:
    monkeypatch.setattr(worker.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr("sdft_ray.workers.worker.redirect_output", lambda path: None)
    umask = os.umask(0o022)
    yield LearnerWorker(rank=1, num_ranks=2, log_dir=str(tmp_path), settings=None)  # type: ignore[arg-type]
    os.umask(umask)


def test_a_rank_that_listens_is_reached_and_one_that_does_not_is_named_with_its_port(rank: LearnerWorker) -> None:
    address, port = rank.listen()
    rank.reach(address, port)
    assert rank._door is not None
    rank._door.close()
    problem = re.escape(f"learner worker 1 on 127.0.0.1 does not reach port {port} of 127.0.0.1 (")
    with pytest.raises(ClusterError, match=f"{problem}.*open all TCP ports between the nodes"):
        rank.reach(address, port)
