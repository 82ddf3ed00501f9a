"""Rollout workers that come and go with the Ray nodes they are on, in a running job.

Up to `cluster.rollout.max_workers` places are asked for, each in a placement group of its own. Those that Ray cannot
give yet stay asked for, which is what an autoscaler adds nodes for. A worker joins as soon as its place is there. It
leaves when Ray drains its node: behind its last answer its place is given back, and asked for anew on another node.
Ray ends a drained node once nothing is left on it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ray._private.state import state as ray_state

from sdft_ray.workers.membership import Membership

POLL_S = 1.0  # between two looks at places and nodes, half a millisecond each


class Places(Protocol):
    """The places of a role, each of which can be given back alone."""

    def node_ids(self) -> dict[int, str]:
        """The id of the node of each place by rank; "" where there is none yet."""
        ...

    def renew(self, rank: int) -> None:
        """Gives a place back and asks for another."""
        ...


def draining_nodes() -> Mapping[str, int]:
    """The nodes that Ray drains by id, and when they will be ended [ms since 1970, 0 where nobody has said]."""
    nodes: dict[str, int] = ray_state.get_draining_nodes()
    return nodes


class Elasticity:
    """Has workers of one role join where a place is there, and leave where its node is drained."""

    def __init__(self, members: Membership, places: Places, draining: Callable[[], Mapping[str, int]] = draining_nodes):
        """`members` replace those that are lost, and free the places of those that have left."""
        self._members = members
        self._places = places
        self._draining = draining

    async def watch(self) -> None:
        """Looks at places and nodes until it is cancelled. Who is about to join or leave then goes on doing so."""
        while True:
            nodes, draining = await asyncio.to_thread(self._look)
            for rank, node in nodes.items():
                is_there = self._members.has(rank)
                if node in draining and is_there:
                    self._members.leave(rank, _reason(draining[node]))
                elif node in draining:
                    self._places.renew(rank)
                elif node and not is_there:
                    self._members.join(rank)
            await asyncio.sleep(POLL_S)

    def _look(self) -> tuple[dict[int, str], Mapping[str, int]]:
        return self._places.node_ids(), self._draining()


def _reason(ends_ms: int) -> str:
    if not ends_ms:
        return "its node is drained"
    return f"its node is drained, and ends in {max(0.0, ends_ms / 1000 - time.time()):.0f} s"
