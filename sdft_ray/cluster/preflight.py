"""What has to hold before GPUs burn, a line each: what, its value, the verdict, and the remedy.

Every start looks at these, which takes seconds, unless `preflight=false`. mode=preflight prints them, starts the
workers besides, and has them load and compute as a run would before its first step.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdft_ray.cluster.run_folder import LOCK_FILE, UNFINISHED
from sdft_ray.cluster.run_inputs import RunInputs
from sdft_ray.cluster.session import alive_nodes
from sdft_ray.cluster.stages import Stage, Stages
from sdft_ray.config import RunConfig
from sdft_ray.errors import ClusterError, PreflightError, first_line
from sdft_ray.learner.checkpoint import complete_checkpoints
from sdft_ray.models.arithmetic import ADAMW_BYTES_PER_PARAMETER, FP32_BYTES, read_shape
from sdft_ray.models.identity import fingerprint
from sdft_ray.planning.memory import role_memory
from sdft_ray.planning.workload import Lengths, Workload
from sdft_ray.tracking.summary import package_versions

GIB = 2**30
FACTS_TIMEOUT_S = 60.0  # of a node, whose worker has to import this package first
WRITTEN_BYTES = 2**25  # with which the speed of the storage is measured
SLOW_SAVE_S = 600.0
LEAST_DEEPSPEED = (0, 19, 8)  # before, ZeRO 1 in bf16 loses the gradient of a step's last microbatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that was looked at."""

    what: str
    value: str
    problem: str = ""  # "" where it is fine
    remedy: str = ""
    is_fatal: bool = True  # whether a run with this problem would be wrong or could not end
    is_looked_at: bool = True  # False where the value says why not

    def __str__(self) -> str:
        verdict = "ok" if self.is_looked_at else "skipped"
        if self.problem:
            verdict = "FAILED" if self.is_fatal else "warning"
        why = f": {self.problem}; {self.remedy}" if self.problem else ""
        return f"{self.what:<15}{verdict:<8} {self.value}{why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    node: str
    versions: dict[str, str]  # by package, and of this package's source
    models: tuple[str, ...]  # fingerprints, "" for a folder that is not there
    sees_run_folder: bool


def facts_of_this_node(node: str, folders: Sequence[str], run_dir: str) -> NodeFacts:
    """The facts, of model folders and the run folder as this node sees them."""
    return NodeFacts(
        node=node,
        versions=package_versions() | {"sdft_ray source": source_hash()},
        models=tuple(fingerprint(folder) if Path(folder).is_dir() else "" for folder in folders),
        sees_run_folder=(Path(run_dir) / LOCK_FILE).is_file(),
    )


@cache
def source_hash() -> str:
    """What tells the code of this package from any other, whatever its version says."""
    digest, root = hashlib.blake2b(digest_size=6), Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def facts_of_all_nodes(folders: Sequence[str], run_dir: str) -> list[NodeFacts]:
    """Asks every node of the cluster; this one alone is asked without a worker process.

    Raises:
        ClusterError: a node does not answer.
    """
    nodes = alive_nodes()
    if len(nodes) == 1:
        return [facts_of_this_node("this node", folders, run_dir)]
    asked = ray.remote(facts_of_this_node)
    answers = [
        asked.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(node["NodeManagerAddress"], folders, run_dir)
        for node in nodes
    ]
    _, silent = ray.wait(answers, num_returns=len(answers), timeout=FACTS_TIMEOUT_S)
    if silent:
        address = nodes[answers.index(silent[0])]["NodeManagerAddress"]
        raise ClusterError(
            f"node {address} does not answer within {FACTS_TIMEOUT_S:.0f} s; see 'ray status', or take it out."
        )
    try:
        facts: list[NodeFacts] = ray.get(answers, timeout=FACTS_TIMEOUT_S)
    except RayError as error:
        raise ClusterError(
            f"a node cannot say what is installed there ({first_line(error)}); install this package on every node of "
            f"{', '.join(node['NodeManagerAddress'] for node in nodes)}, in the environment that Ray was started in."
        ) from error
    return facts


def check_nodes(facts: Sequence[NodeFacts], *, trains: bool) -> Iterator[Line]:
    """Versions, model folders and the run folder, which all nodes have to share."""
    first = facts[0]
    other = next((one for one in facts if one.versions != first.versions), None)
    differing = "" if other is None else ", ".join(_differences(first, other))
    yield Line(
        what="versions",
        value=f"on {len(facts)} node{'s' if len(facts) > 1 else ''}: "
        + ", ".join(f"{name} {version}" for name, version in first.versions.items()),
        problem=differing,
        remedy="install the same environment on every node",
    )
    deepspeed = first.versions.get("deepspeed", "")
    if trains:
        yield Line(
            what="deepspeed",
            value=deepspeed or "not installed",
            problem="loses the gradient of a step's last microbatch under ZeRO 1 in bf16"
            if _numbers(deepspeed) < LEAST_DEEPSPEED
            else "",
            remedy=f"install {'.'.join(map(str, LEAST_DEEPSPEED))} or newer",
        )
    strays = [one.node for one in facts if one.models != first.models]
    yield Line(
        what="model folders",
        value=", ".join(first.models),
        problem=f"are others, or not there, on {', '.join(strays)}" if strays else "",
        remedy="copy them anew, or set model.path to a folder that all nodes share",
    )
    blind = [one.node for one in facts if not one.sees_run_folder]
    yield Line(
        what="run folder",
        value="seen by every node" if not blind else "",
        problem=f"is not seen by {', '.join(blind)}" if blind else "",
        remedy="set runs_dir to a folder that all nodes share",
    )


def check_storage(cfg: RunConfig, model_path: str, run_dir: Path) -> Iterator[Line]:
    """Room for the checkpoints and the exported model, and how fast they are written."""
    free = shutil.disk_usage(run_dir).free
    saved = checkpoint_bytes(cfg, model_path)
    # One is written before an old one goes; those of a run that goes on are there already, and go first.
    num_saved = cfg.keep_checkpoints + bool(cfg.keep_best) + 1 if cfg.checkpoint_every else 0
    num_more = max(0, num_saved - len(complete_checkpoints(run_dir / "checkpoints")))
    needed = num_more * saved + read_shape(model_path).num_parameters * FP32_BYTES
    yield Line(
        what="storage",
        value=f"{free / GIB:.1f} GiB free, {needed / GIB:.1f} planned for {num_more} more checkpoints and the model",
        problem="the run would fill the disk" if needed > free else "",
        remedy="make room, set runs_dir to a larger disk, or lower keep_checkpoints",
    )
    try:
        rate = write_rate(run_dir)
    except OSError as error:
        problem = f"cannot be written to ({error.strerror or error})"
        yield Line(what="run folder", value=str(run_dir), problem=problem, remedy="make room, or set another runs_dir")
        return
    seconds = saved / rate
    yield Line(
        what="write speed",
        value=f"{rate / 2**20:.0f} MiB/s, {seconds:.0f} s a checkpoint",
        problem=f"training waits that long every {cfg.checkpoint_every} steps"
        if cfg.checkpoint_every and seconds > SLOW_SAVE_S
        else "",
        remedy="set runs_dir to a faster disk, or raise checkpoint_every",
        is_fatal=False,
    )


def checkpoint_bytes(cfg: RunConfig, model_path: str) -> int:
    """At most: fp32 masters, both moments, and the moving average."""
    width = FP32_BYTES + ADAMW_BYTES_PER_PARAMETER
    return read_shape(model_path).num_parameters * (width + (FP32_BYTES if cfg.method.has_teacher else 0))


def write_rate(folder: Path) -> float:
    """Bytes a second that reach the disk."""
    file, content = folder / f"preflight{UNFINISHED}", os.urandom(WRITTEN_BYTES)
    started = time.perf_counter()
    try:
        with file.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - started)
    finally:
        file.unlink(missing_ok=True)


def check_memory(cfg: RunConfig, inputs: RunInputs) -> Iterator[Line]:
    """What the planner predicts for a step, moments included, with every sequence as long as the longest.

    Of GPUs the settings tell the size; of this node's memory the system tells what is left.
    """
    completion = cfg.rollout.max_new_tokens
    lengths = Lengths(
        prompt=max(1, inputs.max_model_len - 1 - completion),
        teacher_prompt=max(1, inputs.max_teacher_len - completion),
        completion=completion,
        origin="the longest",
    )
    shape = read_shape(inputs.model_path)
    roles = role_memory(Workload(cfg=cfg, shape=shape, lengths=lengths, roles=tuple(cfg.needed_roles())))
    for memory in (memory for memory in roles if memory.device == "cuda"):
        yield Line(
            what="GPU memory",
            value=f"{memory.role} {memory.total_gib:.1f} GiB predicted, of {memory.limit_gib:.1f}",
            problem="" if memory.fits_in(memory.limit_gib) else "may not be enough",
            remedy="see mode=plan, which proposes settings that fit",
            is_fatal=False,
        )
    on_cpu = sum(memory.total_gib * memory.num_workers for memory in roles if memory.device == "cpu")
    there = psutil.virtual_memory().available / GIB
    yield Line(
        what="memory",
        value=f"{on_cpu:.1f} GiB predicted for the roles on CPUs, {there:.1f} available on this node",
        problem="may not be enough" if on_cpu > there * cfg.cluster.num_nodes else "",
        remedy="end what else runs here, or see mode=plan, which proposes settings that fit",
        is_fatal=False,
    )


def look(stages: Stages, run_dir: Path) -> list[Line]:
    """Everything that can be looked at before a worker starts. Raises as `facts_of_all_nodes`."""
    cfg, inputs = stages.shared
    folders = list(dict.fromkeys([inputs.model_path, inputs.teacher_path]))
    return [
        *check_nodes(facts_of_all_nodes(folders, str(run_dir)), trains="learner" in cfg.needed_roles()),
        *check_storage(cfg, inputs.model_path, run_dir),
        *(line for stage in stages for line in look_at_stage(stage)),
        Line(what="vocabulary", value=f"{inputs.facts.num_tokens} tokens, template and tokenizer of one model"),
    ]


def look_at_stage(stage: Stage) -> Iterator[Line]:
    """What each stage has of its own: the lengths of its sequences, and with them the memory of a step."""
    cfg, inputs = stage.cfg, stage.inputs
    lines = [
        *check_memory(cfg, inputs),
        Line(
            what="longest",
            value=f"{inputs.max_model_len - 1} tokens for the student, {inputs.max_teacher_len} for the teacher, "
            f"{inputs.facts.context_length} that the model reads",
        ),
    ]
    for line in lines:
        yield replace(line, value=f"stage {stage.name}: {line.value}") if stage.name else line


def refuse_failed(lines: Sequence[Line]) -> None:
    """Ends a start of which something would go wrong.

    Raises:
        PreflightError: names all that has failed, each with its remedy.
    """
    if failed := [line for line in lines if line.problem and line.is_fatal]:
        raise PreflightError("; ".join(f"{line.what}: {line.value}: {line.problem}; {line.remedy}" for line in failed))


def _differences(one: NodeFacts, other: NodeFacts) -> Iterator[str]:
    for name in sorted({*one.versions, *other.versions}):
        versions = [of_node.versions.get(name, "none") for of_node in (one, other)]
        if versions[0] != versions[1]:
            yield f"{name} is {versions[0]} on {one.node}, {versions[1]} on {other.node}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
