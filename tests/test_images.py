"""The images, as far as their files tell: what they copy, what they install, and what others take them for."""

import importlib.util
import re
import shlex
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from sdft_ray import __version__
from sdft_ray.config import TargetConfig

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
LOCKS = ("requirements-cpu-hashes.txt", "requirements-gpu.txt")
PIN = re.compile(r"([a-z0-9-]+)==([\w.+]+)((?: --hash=sha256:[0-9a-f]{64})*)")
# vLLM and torch declare other versions for CUDA than the CPU stack has; the tests ran with all the rest.
DECLARED_FOR_CUDA = {"apache-tvm-ffi", "triton"}


@cache
def instructions() -> list[list[str]]:
    """The Dockerfile's instructions in words, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@cache
def stages() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for words in instructions():
        if words[0] == "FROM":
            found[words[3]] = []
        if found:
            found[list(found)[-1]].append(words)
    return found


def final_stages(target: str) -> list[list[str]]:
    """The instructions whose layers are in the image of a target, its bases' first."""
    parent = stages()[target][0][1]
    return [*(final_stages(parent) if parent in stages() else []), *stages()[target]]


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Version and hashes by package; every line that is no comment is a pin."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if line and not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1]: (match[2], match[3]) for match in matches if match}


def test_the_targets_are_a_cpu_and_a_gpu_image() -> None:
    assert {"cpu", "gpu"} <= set(stages())
    assert list(stages())[-1] == "cpu"  # what is built without --target


def test_what_an_image_copies_exists_and_is_not_ignored() -> None:
    copied = {
        source
        for words in instructions()
        if words[0] == "COPY" and not any(word.startswith("--from") for word in words)
        for source in words[1:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_an_image_has_a_hash_and_is_installed_by_it(name: str) -> None:
    assert pins(name) and all(hashes for _, hashes in pins(name).values())
    stage = next(stage for stage in stages().values() if ["COPY", f"docker/{name}", "lock.txt"] in stage)
    commands = " && ".join(" ".join(words) for words in stage if words[0] == "RUN")
    installs = re.findall(r"pip install ([^&]*)", commands)
    assert [install.split()[-1] for install in installs] == ["wheels.txt", "lock.txt", "."]
    assert all("--no-deps" in install for install in installs)
    assert all("--require-hashes" in install for install in installs[:-1])


def test_the_cpu_image_has_the_versions_of_the_lock() -> None:
    versions = {name: version for name, (version, _) in pins(LOCKS[0]).items()}
    assert versions == {name: version for name, (version, _) in pins("requirements-cpu.txt").items()}


def test_the_gpu_image_has_what_the_package_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["gpu"])]
    versions = pins(LOCKS[1])
    wrong = [str(one) for one in declared if one.name not in versions or versions[one.name][0] not in one.specifier]
    assert declared and not wrong


def test_the_gpu_image_differs_from_what_the_tests_ran_with_only_where_cuda_wants_it() -> None:
    cpu, gpu = pins(LOCKS[0]), pins(LOCKS[1])
    both = cpu.keys() & gpu.keys()
    differing = {name for name in both if cpu[name][0].removesuffix("+cpu") != gpu[name][0]}
    assert len(both) > 150
    assert differing == DECLARED_FOR_CUDA
    assert "+" not in gpu["torch"][0]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_the_command_as_the_user_that_manifests_name(target: str) -> None:
    layers = final_stages(target)
    assert [words[1] for words in layers if words[0] == "USER"] == ["${UID}:${UID}"]
    assert ["ARG", f"UID={TargetConfig().user_id}"] in layers
    assert ["ENTRYPOINT", "[sdft]"] in layers


def test_the_gpu_image_alone_has_a_compiler_and_the_cpu_image_asks_for_none() -> None:
    installed = {
        target: {
            word
            for words in final_stages(target)
            for packages in re.findall(r"--no-install-recommends ([^&]*)", " ".join(words))
            for word in packages.split()
        }
        for target in ("cpu", "gpu")
    }
    assert installed["cpu"] == {"libnuma1", "wget"}
    assert installed["gpu"] - installed["cpu"] == {"g++"}
    assert ["ENV", "TORCH_COMPILE_DISABLE=1"] in final_stages("cpu")
    assert "DS_BUILD_SHM_COMM=1" in " ".join(word for words in stages()["build-cpu"] for word in words)


def test_the_health_check_asks_the_port_at_which_ray_answers() -> None:
    ray = importlib.util.find_spec("ray")  # which imports nothing of it
    assert ray is not None and ray.origin is not None
    constants = (Path(ray.origin).parent / "_private" / "ray_constants.py").read_text()
    port = re.search(r"^DEFAULT_DASHBOARD_AGENT_LISTEN_PORT = (\d+)", constants, re.MULTILINE)
    check = next(words for words in stages()["base"] if words[0] == "HEALTHCHECK")
    assert port is not None and check[-1] == f"http://127.0.0.1:{port[1]}/api/healthz]"


def test_labels_tell_what_the_package_tells() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    label = next(words for words in stages()["base"] if words[0] == "LABEL")
    told = dict(word.removeprefix("org.opencontainers.image.").split("=", 1) for word in label[1:])
    assert told == {
        "title": project["name"],
        "description": project["description"],
        "version": __version__,
        "revision": "${REVISION}",
        "licenses": project["license"],
    }


def test_no_file_of_the_images_names_where_packages_come_from() -> None:
    for path in DOCKER.iterdir():
        hosts = re.findall(r"https?://([\w.-]+)|--(?:extra-)?index-url|--find-links", path.read_text())
        assert set(hosts) <= {"127.0.0.1"}, path.name
        assert fnmatch(path.name, "*.txt") or path.name in ("Dockerfile", "lock.py", "test.sh"), path.name
