"""The run folder: made for a new run, entered again by a resumed one, never overwritten."""

from dataclasses import dataclass
from pathlib import Path

from sdft_ray.cluster.finished import run_path
from sdft_ray.config import AUTO, NEVER, Mode, RunConfig
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.learner.checkpoint import complete_checkpoints, read_state


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run writes, and the checkpoint it goes on from."""

    path: Path
    resumed: Path | None  # None: from the beginning

    @property
    def logs(self) -> Path:
        """Log files of all workers."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Checkpoint folders step-N."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final student."""
        return self.path / "model"

    @property
    def resumed_step(self) -> int | None:
        """The step of the resumed checkpoint."""
        if self.resumed is None:
            return None
        step: int = read_state(self.resumed)["weight_version"]
        return step


def open_run_folder(cfg: RunConfig) -> RunFolder:
    """Finds the checkpoint to go on from and makes the folder.

    Raises:
        ConfigError: a run of that name exists and nothing says to resume it, or there is no name to resume.
        CheckpointError: the checkpoint to resume does not exist.
    """
    path = run_path(cfg)
    resumed = _checkpoint_to_resume(cfg, path)
    if cfg.resume == NEVER and path.exists():
        remedy = "choose another name, go on with resume=auto, or delete that folder"
        raise ConfigError("name", cfg.name, f"the run folder {path} exists, and resume=never", remedy)
    for folder in ("logs", "checkpoints") if cfg.mode is Mode.train else ("logs",):
        (path / folder).mkdir(parents=True, exist_ok=True)
    return RunFolder(path, resumed)


def _checkpoint_to_resume(cfg: RunConfig, path: Path) -> Path | None:
    if cfg.resume == NEVER:
        return None
    if cfg.resume == AUTO:
        found = complete_checkpoints(path / "checkpoints")
        return found[-1] if found else None
    folder = Path(cfg.resume).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"resume={cfg.resume}: no such folder; give a step-N folder, auto or never.")
    return folder
