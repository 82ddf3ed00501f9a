"""Learner ranks meet at one address of the machine, where nobody else can knock."""

import multiprocessing
import socket
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.cluster  # it starts processes that import torch
LOOPBACK = "127.0.0.1"


def be_rank(rank: int, port: int, found: Any) -> None:
    import torch

    from sdft_ray.learner.worker import meet

    meet(LOOPBACK, port, rank, 2, "gloo")
    values = torch.ones(3)
    torch.distributed.all_reduce(values)
    listening = {
        place.laddr.ip for place in psutil.Process().net_connections(kind="inet") if place.status == psutil.CONN_LISTEN
    }
    found.put((values.tolist(), sorted(listening)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_on_one_machine_listen_on_the_loopback_alone() -> None:
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    spawning = multiprocessing.get_context("spawn")
    found = spawning.Queue()
    ranks = [spawning.Process(target=be_rank, args=(rank, port, found)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        answers = [found.get(timeout=120) for _ in ranks]
    finally:
        for rank in ranks:
            rank.join(timeout=30)
            rank.kill()
    for values, listening in answers:
        assert values == [2.0] * 3
        assert {address.removeprefix("::ffff:") for address in listening} <= {LOOPBACK}
    assert any(listening for _, listening in answers)
