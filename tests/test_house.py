"""The house rules that no linter knows."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdft_ray"
MAX_FILE_LINES = 299
MAX_FUNCTION_LINES = 59
TEST_FOLDERS_OF_THEIR_OWN = {
    "cluster",
    "gpu",
    "gpu_check",
    "benchmarks",
    "chaos",
    "claims",
}  # whole jobs, not one folder of the package

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def test_files_stay_below_300_lines() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    longest = max(sizes, key=sizes.__getitem__)
    too_long = {name: lines for name, lines in sizes.items() if lines > MAX_FILE_LINES}
    print(f"longest file: {longest}, {sizes[longest]} lines")
    assert not too_long, f"{too_long}; longest file: {longest}, {sizes[longest]} lines"


def test_functions_stay_below_60_lines() -> None:
    sizes = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, module in modules()
        for node in ast.walk(module)
        if isinstance(node, Function)
    }
    longest = max(sizes, key=sizes.__getitem__)
    too_long = {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION_LINES}
    print(f"longest function: {longest}, {sizes[longest]} lines")
    assert not too_long, f"{too_long}; longest function: {longest}, {sizes[longest]} lines"


def test_nothing_is_named_for_what_it_does_not_say() -> None:
    names = {path.stem for path in PACKAGE.rglob("*")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_every_file_that_is_not_code_travels_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    travelling = {
        path
        for package, names in patterns.items()
        for name in names
        for path in ROOT.glob(f"{package.replace('.', '/')}/{name}")
    }
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files and not files - travelling


def test_no_error_is_caught_without_its_name() -> None:
    broad = [
        f"{name}:{handler.lineno}"
        for name, module in modules()
        for handler in ast.walk(module)
        if isinstance(handler, ast.ExceptHandler) and catches_everything(handler)
    ]
    assert not broad, f"name the error that is caught: {broad}"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:  # it cleans up, and the error goes on as it was
        return False
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


SAYS_TIMES = {  # of files and events, by the clock on the wall
    "cluster/elasticity.py",
    "cluster/old_sessions.py",
    "cluster/status.py",
    "data/cache.py",
    "data/chat_sandbox.py",
    "learner/compile_lock.py",
    "targets/kuberay/job.py",
    "tracking/tensorboard_sink.py",
    "watch/sources.py",
}


def test_no_deadline_reads_the_wall_clock_which_may_jump() -> None:
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now\(|from time import .*\btime\b", path.read_text())
    }
    assert readers <= SAYS_TIMES


def test_settings_use_enums_and_are_not_frozen() -> None:
    """OmegaConf reads neither `Literal` nor frozen dataclasses as they are meant."""
    wrong = []
    for name, module in modules():
        if name.startswith("sdft_ray/config"):
            for node in ast.walk(module):
                is_literal = isinstance(node, ast.Name) and node.id == "Literal"
                if is_literal or (isinstance(node, ast.keyword) and node.arg == "frozen"):
                    wrong.append(f"{name}:{node.lineno}")
    assert not wrong


def test_every_test_folder_mirrors_a_folder_of_the_package() -> None:
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    strangers = [
        str(folder)
        for folder in folders
        if not (PACKAGE / folder).is_dir() and folder.parts[0] not in TEST_FOLDERS_OF_THEIR_OWN
    ]
    assert not strangers, f"folders without a counterpart in sdft_ray/: {strangers}"


def test_every_file_that_the_package_or_a_page_about_it_cites_is_there() -> None:
    sources = [*PACKAGE.rglob("*.py"), ROOT / "docs" / "method.md", ROOT / "docs" / "architecture.md"]
    cited = {
        (str(path.relative_to(ROOT)), name)
        for path in sources
        for name in re.findall(r"(?<![\w/.{}*-])(?:[\w-]+/)+[\w-]+\.(?:py|md|json)\b|\b[A-Z]+\.md\b", path.read_text())
    }
    missing = sorted(
        f"{place} cites {name}" for place, name in cited if not ((ROOT / name).exists() or (PACKAGE / name).exists())
    )
    assert not missing, "\n".join(missing)


def test_the_reference_loss_trains_nothing() -> None:
    reference = PACKAGE / "distill" / "reference_loss.py"
    assert reference.is_file(), "renamed: name it here as well"
    users = [
        name
        for name, module in modules()
        for node in ast.walk(module)
        for imported in imports_of(node)
        if imported.split(".")[-1] == reference.stem
    ]
    assert not users


def test_deepspeed_is_imported_by_the_engine_alone() -> None:
    importing = {
        name
        for name, module in modules()
        for node in ast.walk(module)
        for imported in imports_of(node)
        if imported.split(".")[0] == "deepspeed"
    }
    assert importing == {"sdft_ray/learner/engine.py"}


# What DeepSpeed's engine has, and what it hangs on parameters.
BEHIND_THE_WALL = {
    "_hp_mapping",
    "basic_optimizer",
    "ds_id",
    "ds_numel",
    "ds_shape",
    "enable_backward_allreduce",
    "get_global_grad_norm",
    "get_hp_fragment_address",
    "grad_position",
    "param_groups",
    "set_gradient_accumulation_boundary",
    "update_lp_params",
}


def test_nothing_of_deepspeed_s_engine_is_used_but_behind_the_wall() -> None:
    using: dict[str, set[str]] = {}
    for name, module in modules():
        for node in ast.walk(module):
            used = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(used, str) and used in BEHIND_THE_WALL:
                using.setdefault(name, set()).add(used)
    assert using.pop("sdft_ray/learner/engine.py") == BEHIND_THE_WALL
    assert not using


def test_the_learner_s_engine_has_a_type_wherever_it_is_handed_on() -> None:
    untyped = [
        f"{name}:{argument.lineno}"
        for name, module in modules()
        if name.startswith("sdft_ray/learner/")
        for node in ast.walk(module)
        if isinstance(node, Function)
        for argument in [*node.args.args, *node.args.kwonlyargs]
        if "engine" in argument.arg and (argument.annotation is None or ast.unparse(argument.annotation) == "Any")
    ]
    assert not untyped


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        return [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
