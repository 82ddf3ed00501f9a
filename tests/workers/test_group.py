"""The driver's side of the workers, with actors in memory, and that it is the only side."""

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from sdft_ray.errors import WorkerError
from sdft_ray.workers.group import WorkerGroup

PACKAGE = Path(__file__).parents[2] / "sdft_ray"


async def fail(rank: int) -> int:
    raise RayTaskError("score", "Traceback\nKeyError: 'a missing thing'", KeyError("a missing thing"))


async def test_a_call_goes_to_the_least_busy_worker_and_one_that_failed_leaves_none_busy() -> None:
    group = WorkerGroup("teacher", [0, 1, 2], "logs")
    proceed = asyncio.Event()

    async def wait(rank: int) -> int:
        await proceed.wait()
        return rank

    with pytest.raises(WorkerError, match="teacher worker 0 failed with KeyError"):
        await group.call(fail)
    waiting = [asyncio.create_task(group.call(wait)) for _ in range(4)]
    await asyncio.sleep(0)
    proceed.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2, 0]


async def test_a_failure_is_named_by_rank_whichever_way_the_call_was_made() -> None:
    group = WorkerGroup("teacher", [0, 1], "logs")

    async def fail_with(rank: int, fails: bool) -> int:
        return await fail(rank) if fails else rank

    with pytest.raises(WorkerError, match=r"teacher worker 0 failed with .*\nIts log: logs/teacher-0\.log"):
        await group.on_first(fail)
    with pytest.raises(WorkerError, match="teacher worker 0 failed with"):
        await group.on_all(fail)
    with pytest.raises(WorkerError, match="teacher worker 1 failed with"):
        await group.on_each(fail_with, [False, True])
    assert await group.on_each(fail_with, [False, False]) == [0, 1]


async def test_a_worker_that_could_not_be_made_is_named_with_its_exception_and_the_line_that_explains_it() -> None:
    traceback = (
        "ray::RolloutWorker.__init__()\n"
        '  File "worker.py", line 1, in __init__\n'
        "ValidationError: 1 validation error for VllmConfig\n"
        "  Chunked prefill is required.\n"
        "    For further information visit a page"
    )

    async def start(rank: int) -> int:
        raise ActorDiedError(RayTaskError("__init__", traceback, ValueError()))

    group = WorkerGroup("rollout", [0], "logs")
    with pytest.raises(WorkerError, match="failed with ValidationError: .*VllmConfig Chunked prefill is required.\n"):
        await group.on_first(start)


def test_every_call_to_a_worker_is_made_by_its_group() -> None:
    """Outside `workers/` an actor is a parameter named `actor` of what a group is given; one place makes them.

    The preflight asks nodes, by tasks, before there is any worker; mode=stacks asks those of a run that is not its own.
    """
    makers, calls, reaches = set(), [], []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("workers/"):
            continue
        for scopes, node in attributes(ast.parse(path.read_text())):
            place, function = f"{name}:{node.lineno}", (name, *scopes[:1])
            if node.attr in ("actors", "_actors"):
                reaches.append(place)
            if node.attr == "remote":
                root = root_name(node)
                if root == "ray":
                    makers.add(function)
                elif root != "actor" or not any("actor" in parameters(scope) for scope in scopes):
                    calls.append((place, function))
    assert not reaches
    assert sorted(name for name, *_ in makers) == ["cluster/actors.py", "cluster/preflight.py", "watch/nodes.py"]
    assert not [place for place, function in calls if function not in makers]


Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def attributes(node: ast.AST, scopes: tuple[Scope, ...] = ()) -> Any:
    """Every attribute below `node`, with the functions around it, outermost first."""
    if isinstance(node, ast.Attribute):
        yield scopes, node
    inner = (*scopes, node) if isinstance(node, Scope) else scopes
    for child in ast.iter_child_nodes(node):
        yield from attributes(child, inner)


def parameters(scope: Scope) -> set[str]:
    return {argument.arg for argument in scope.args.args}


def root_name(node: ast.expr) -> str:
    """`actor` of `actor.score.options(num_returns=2).remote`."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
