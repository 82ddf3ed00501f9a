"""mode=preflight: what a run looks at, prints and compares before its first step, and nothing after that."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from sdft_ray.cluster.job import Job
from sdft_ray.cluster.preflight import Line, refuse_failed
from sdft_ray.cluster.run_folder import PREFLIGHT_FILE
from sdft_ray.cluster.session import RaySession, job_metadata
from sdft_ray.cluster.topology import Roles, start_roles
from sdft_ray.cluster.zero_divergence import check_zero_divergence
from sdft_ray.config import NEVER, RunConfig
from sdft_ray.errors import ConfigError
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.weights.channel import WeightKind
from sdft_ray.weights.checksum import checksums


class PreflightJob(Job):
    """A job that ends before its first step."""

    def __init__(self, configs: Sequence[tuple[str, RunConfig]]):
        """As `Job`, in a folder of its own: the run's name stays free. Every stage's data is read.

        Raises:
            ConfigError: a checkpoint is to be resumed, which is not looked at.
        """
        _, first = configs[0]
        if first.resume != NEVER:
            problem = "mode=preflight looks at a run from its beginning"
            raise ConfigError("resume", first.resume, problem, "set resume=never")
        name = f"{first.name}-preflight" if first.name else ""
        super().__init__([(stage, replace(cfg, name=name)) for stage, cfg in configs])

    async def run(self) -> None:
        """Prints a line each, then starts the workers as a run does; leaves no process behind however it ends.

        Raises:
            PreflightError: something is wrong, with the remedies.
            NonFiniteError: what teacher or student make of a real example is NaN or infinite.
            GuardError: the rollout engines compute something else than the learner, with the weights it published.
        """
        started = time.monotonic()
        metadata = job_metadata(self.folder.path, self._cfg, [stage.name for stage in self._stages])
        in_ray = RaySession(self._cfg.cluster, self._cfg.needed_roles(), metadata)
        with self.console:
            async with in_ray.watched() as session:
                self._termination.listen()
                self._introduce(session.dashboard)
                if session.warning:
                    self.console.say(session.warning)
                lines = self._look_first(lambda line: True)
                console, tell = self.console, self._faults.tell
                roles = await start_roles(
                    self._stages, self.folder, self._saving, console.phase, console.counting, tell
                )
                try:
                    for note in await roles.notes():
                        self.console.say(f"checked        {note}")
                    await self._check_engines(roles)
                    lines += self._met(roles)
                    lines += await self._check_publications(roles)
                    lines += self._said(await check_zero_divergence(self._stages, roles))
                finally:
                    roles.close()
        seconds = time.monotonic() - started
        result = {"lines": [asdict(line) for line in lines], "seconds": round(seconds, 1)}
        move_to_earlier(self.folder.path / PREFLIGHT_FILE)
        (self.folder.path / PREFLIGHT_FILE).write_text(json.dumps(result, indent=2), encoding="utf-8")
        self.console.say(f"preflight      passed in {seconds:.0f} s; leave mode=preflight out to train")

    def _met(self, roles: Roles) -> list[Line]:
        """That the ranks have met, which they do not start without."""
        num_ranks = roles.groups["learner"].size
        return self._said([Line(what="ports", value=f"{num_ranks} learner ranks have met")] if num_ranks > 1 else [])

    async def _check_publications(self, roles: Roles) -> list[Line]:
        """Has all workers read what the learner publishes for them, a line for each set of weights."""
        kinds = {"rollout": WeightKind.STUDENT}
        if isinstance(roles.teacher, TeacherPool) and roles.teacher.kind is not None:
            kinds["teacher"] = roles.teacher.kind
        kinds = {role: kind for role, kind in kinds.items() if role in roles.groups and not roles.channel.pushes(kind)}
        lines = []
        for kind in dict.fromkeys(kinds.values()):
            read: dict[str, str] = {}
            for role in ("learner", *(role for role in kinds if kinds[role] is kind)):
                version = roles.learner.weight_version
                read |= await checksums(roles.channel, kind, version, roles.groups[role])
            lines.append(publication_line(kind.value, read))
        return self._said(lines)

    def _said(self, lines: list[Line]) -> list[Line]:
        """The lines, printed; refuses what is wrong."""
        for line in lines:
            self.console.say(str(line))
        refuse_failed(lines)
        return lines


def publication_line(kind: str, read: Mapping[str, str]) -> Line:
    """Whether every worker, by its name, reads the weights that the learner, the first, has published."""
    (publisher, published), *others = read.items()
    strays = [name for name, of_worker in others if of_worker != published]
    return Line(
        what="publication",
        value=f"{kind} weights, checksum {published[:12]}, of {publisher}, read by {len(others)} more",
        problem=f"{', '.join(strays)} read other weights" if strays else "",
        remedy="set another weights.channel, and have the memory of their nodes tested",
    )
