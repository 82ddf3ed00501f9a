"""The plan of a run: everything the planner predicts, as tables for a person and as plain containers for a program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sdft_ray.config import RunConfig
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.planning.host import host_memory
from sdft_ray.planning.memory import RoleMemory, role_memory
from sdft_ray.planning.proposals import Proposal, propose
from sdft_ray.planning.seconds import StepSeconds, step_seconds
from sdft_ray.planning.traffic import GIGA, Link, payload_kinds, step_traffic
from sdft_ray.planning.verdict import Misfit, misfits
from sdft_ray.planning.workload import Workload, read_workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Predictions only: nothing here was measured."""

    work: Workload
    memory: list[RoleMemory]
    links: list[Link]
    seconds: StepSeconds
    misfits: list[Misfit]
    proposals: list[Proposal]  # what makes it fit, the least change first

    def as_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "model": self.work.cfg.plan.model or self.work.cfg.model.path,
            "num_parameters": self.work.shape.num_parameters,
            "lengths": asdict(self.work.lengths),
            "memory_gib": {
                memory.role: {
                    "device": memory.device,
                    "num_workers": memory.num_workers,
                    "held": memory.held,
                    "phases": memory.phases,
                    "total": memory.total_gib,
                    "limit": memory.limit_gib,
                }
                for memory in self.memory
            },
            "host_memory_gib": host_memory(self.work),
            "payload_bytes_per_token": payload_kinds(self.work),
            "link_bytes_per_step": {link.name: link.step_bytes for link in self.links},
            "seconds": self.seconds.phases | {"step": self.seconds.step},
            "bottleneck": self.seconds.bottleneck,
            "fits": not self.misfits,
            "misfits": [asdict(misfit) for misfit in self.misfits],
            "proposals": [
                {"what": one.what, "overrides": list(one.overrides), "step_s": one.step_s} for one in self.proposals
            ],
        }

    def show(self, console: Console) -> None:
        """Prints the tables and the verdict."""
        cfg, shape, lengths = self.work.cfg, self.work.shape, self.work.lengths
        _say(
            console,
            f"plan of {cfg.method.name} for {cfg.plan.model or cfg.model.path} ({shape.num_parameters / 1e9:.2f} "
            f"billion parameters) on {cfg.cluster.name} ({cfg.cluster.hardware.name}): predictions, nothing is started",
        )
        _say(
            console,
            f"{cfg.batch_size} samples a step, prompts of {lengths.prompt} tokens, teacher prompts of "
            f"{lengths.teacher_prompt}, completions of {lengths.completion} ({lengths.origin})",
        )
        for memory in self.memory:
            console.print(_memory_table(memory))
        if host := host_memory(self.work):
            console.print(_host_table(host, self.work.cfg.cluster.hardware.host_memory_gib))
        console.print(_traffic_table(self.links))
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in payload_kinds(self.work).items())
        _say(console, f"payload bytes per completion token: {kinds}")
        console.print(_seconds_table(self.seconds))
        for misfit in self.misfits:
            _say(console, f"does not fit: {misfit}")
        for proposal in self.proposals:
            _say(console, f"fits {proposal}")
        if not self.misfits:
            _say(console, "everything fits")
        elif not self.proposals:
            _say(console, "no setting makes it fit: take machines with more memory, or a smaller model")
        _say(console, f"the bottleneck is {self.seconds.bottleneck}")


def make_plan(
    cfg: RunConfig, roles: Sequence[str], look: Callable[[PromptBuilder], object] = lambda builder: None
) -> Plan:
    """Plans a run; reads the model's config.json and the data where they are there, and starts nothing.

    Args:
        cfg: the checked settings.
        roles: those the run would start.
        look: as `read_workload` takes it.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    return plan_of(read_workload(cfg, roles, look))


def plan_of(work: Workload) -> Plan:
    """Plans what has been read."""
    links, found = step_traffic(work), misfits(work)
    return Plan(
        work=work,
        memory=role_memory(work),
        links=links,
        seconds=step_seconds(work, links),
        misfits=found,
        proposals=propose(work) if found else [],
    )


def _memory_table(memory: RoleMemory) -> Table:
    place = "GPU" if memory.device == "cuda" else "worker"
    workers = f"{memory.num_workers} {memory.role} worker{'s' if memory.num_workers > 1 else ''}"
    table = Table(f"{workers}, each {place}", "GiB", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for name, size in memory.held.items():
        table.add_row(name, f"{size:.2f}")
    for name, size in memory.phases.items():
        counts = "" if name == memory.largest_phase else " (not at its largest phase)"
        table.add_row(f"while {name}{counts}", f"{size:.2f}")
    shared = "" if memory.device == "cuda" else " of its node"
    table.add_row(f"in all, of {memory.limit_gib:.1f} that can be used{shared}", f"{memory.total_gib:.2f}")
    return table


def _host_table(held: Mapping[str, float], limit_gib: float) -> Table:
    table = Table("host memory of a node", "GiB", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for name, size in held.items():
        table.add_row(name, f"{size:.2f}")
    there = f", of {limit_gib:.1f}" if limit_gib else " (cluster.hardware.host_memory_gib tells no limit)"
    table.add_row(f"in all{there}", f"{sum(held.values()):.2f}")
    return table


def _traffic_table(links: Sequence[Link]) -> Table:
    table = Table("link", "GB a step", "s", box=box.SIMPLE_HEAD)
    for link in links:
        table.add_row(link.name, f"{link.step_bytes / GIGA:.3f}", f"{link.seconds:.3f}")
    return table


def _seconds_table(seconds: StepSeconds) -> Table:
    table = Table("phase", "s", box=box.SIMPLE_HEAD)
    for name, duration in seconds.phases.items():
        table.add_row(name, f"{duration:.2f}")
    table.add_row("step, with what overlaps counted once", f"{seconds.step:.2f}")
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
