"""Where the numbers come from: settings that differ, the runs, and what they ran on."""

from typing import Any

from omegaconf import OmegaConf

from sdft_ray.config import ClusterConfig, RunConfig
from sdft_ray.config.saved import flat_settings
from sdft_ray.report.arms import ABSENT, as_text, differing_settings, experiment
from sdft_ray.report.axes import Form
from sdft_ray.report.runs import Run
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tables import Cell, number_cell, table, text_cell


def settings(study: Study) -> Section:
    """The settings in which arms differ, and folded all that they share; of one arm, those that are no defaults.

    The seeds of an arm are no difference.
    """
    columns: tuple[str, ...]
    own = experiment(study.arms[0].runs[0])
    if len(study.arms) == 1:
        defaults = default_settings()
        changed = {key: value for key, value in own.items() if value != defaults.get(key)}
        rows = [
            [text_cell(key), text_cell(value), text_cell(defaults.get(key, ABSENT))] for key, value in changed.items()
        ]
        caption, columns = "Settings that are no defaults", ("setting", "value", "default")
        title, lead, shared = "Settings", "All other settings have their defaults.", "All settings"
        kept = {key: as_text(value) for key, value in study.runs[0].settings.items()}
    else:
        differing = differing_settings(study.arms)
        rows = [[text_cell(key), *map(text_cell, values)] for key, values in differing.items()]
        caption, columns = "Settings that differ", ("setting", *(arm.label for arm in study.arms))
        title, lead = "Settings that differ", "All other settings are the same in all arms."
        shared, kept = "Settings that all arms share", {k: value for k, value in own.items() if k not in differing}
    made = table(caption, columns, rows, num_text_columns=len(columns), has_prose=True)
    folded = table(
        shared,
        ("setting", "value"),
        [[text_cell(key), text_cell(kept[key])] for key in kept],
        num_text_columns=2,
        has_prose=True,
    )
    return Section(name="settings", title=title, lead=lead, tables=(made,) if rows else (), folded=(folded,))


def default_settings() -> dict[str, str]:
    """Every setting's default as text, by its full key."""
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(RunConfig(cluster=ClusterConfig())), enum_to_str=True)
    return {key: as_text(value) for key, value in flat_settings(defaults).items()}


def runs(study: Study) -> Section:
    """The runs, and the packages and machines of each."""
    rows = []
    for arm in study.arms:
        for run in arm.runs:
            rows.append(
                [
                    text_cell(run.name),
                    text_cell(arm.label, arm.index),
                    Cell(text=str(run.seed), order=str(run.seed)) if run.seed is not None else text_cell("unknown"),
                    text_cell("finished" if run.is_finished else "not finished"),
                    number_cell(run.num_steps, Form.COUNT),
                    _minutes(run),
                    number_cell(run.summary.get("tokens_per_s"), Form.NUMBER),
                ]
            )
    columns = ("run", "arm", "seed", "state", "steps", "minutes", "trained tokens a second")
    made = table("Runs", columns, rows, num_text_columns=4)
    environment = environment_rows(study.runs)
    names = ("", *(run.name for run in study.runs))
    tables = (made, table("Environment", names, environment, num_text_columns=len(names)))
    return Section(name="runs", title="Runs and environment", lead="", tables=tables)


def environment_rows(all_runs: tuple[Run, ...]) -> list[list[Cell]]:
    """What each run ran on; only what at least one run tells."""
    by_run = [_environment(run) for run in all_runs]
    names = dict.fromkeys(name for found in by_run for name in found)
    return [[text_cell(name), *(text_cell(found.get(name, "\N{EN DASH}")) for found in by_run)] for name in names]


def _environment(run: Run) -> dict[str, str]:
    found = {"model": str(run.settings.get("model.path", "")), "cluster": str(run.settings.get("cluster.name", ""))}
    summary = run.summary
    found["commit"] = str(summary.get("git_commit") or "")
    for name, value in (summary.get("machine") or {}).items():
        found[str(name)] = str(value)
    for role, memory in (summary.get("peak_memory_gib") or {}).items():
        found[f"peak memory, {role}"] = f"{memory['max']:.1f} GiB a worker"
    for role, memory in (summary.get("peak_gpu_memory_gib") or {}).items():
        found[f"peak GPU memory, {role}"] = f"{memory['max']:.1f} GiB a GPU"
    found |= {str(package): str(version) for package, version in (summary.get("packages") or {}).items()}
    return {name: value for name, value in found.items() if value}


def _minutes(run: Run) -> Cell:
    wall_s = run.summary.get("wall_s")
    return number_cell(None if wall_s is None else wall_s / 60, Form.NUMBER)
