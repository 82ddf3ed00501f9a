"""Writes what the images install: every package with the hash of its file, for Python 3.11 on x86-64 Linux.

    make lock

`requirements-cpu-hashes.txt` has the pins of requirements-cpu.txt. `requirements-gpu.txt` is resolved for the CUDA
builds that vLLM declares; a package that both stacks have gets the CPU stack's version, unless vLLM wants another. uv
asks the index it is configured with (UV_DEFAULT_INDEX, UV_FIND_LINKS). One that has no +cpu build of torch fails.

A file of its own, because `uv pip compile --generate-hashes` writes the hashes of every file of a release, thirty for
one that is installed, and its lock that has one (pylock.toml) names the index's host in every line.
"""

import subprocess
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPU_PINS = ROOT / "docker" / "requirements-cpu.txt"
TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_36")
HEAD = "# Made by `make lock`: {what} Linux, x86-64, Python 3.11; complete, so installed with --no-deps.\n"
SOURCES = "\n# Source packages, installed after the rest without build isolation."


def main() -> None:
    """Writes both files."""
    write("requirements-cpu-hashes.txt", "requirements-cpu.txt with hashes, for the image.", hashed(CPU_PINS))
    write("requirements-gpu.txt", "the CUDA stack, for the image.", cuda_stack())


def cuda_stack() -> str:
    """The extra `gpu`, resolved, as such a file."""
    pins = [line for line in CPU_PINS.read_text().splitlines() if "==" in line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as name:
        resolved, no_cpu_builds = Path(name) / "requirements.txt", Path(name) / "constraints.txt"
        # Triton's version is torch's matter: the CUDA build declares one, the CPU build none.
        resolved.write_text("\n".join(pin for pin in pins if not pin.startswith(("torch==", "triton=="))))
        no_cpu_builds.write_text("\n".join(pin.replace("==", "!=") for pin in pins if "+cpu" in pin))
        # uv keeps the versions of the file that it replaces, where it can.
        constraint = ("--constraint", str(no_cpu_builds))
        uv("pyproject.toml", "--extra", "gpu", *constraint, "--output-file", str(resolved))
        return hashed(resolved, *constraint)


def hashed(pins: Path, *options: str) -> str:
    """A requirements file with a line for every pin: name, version and the hashes of the files that fit the target.

    Of a package with wheels the source archive is left out: nothing is compiled that may be downloaded.
    """
    with tempfile.TemporaryDirectory() as name:
        lock = Path(name) / "pylock.toml"
        uv(str(pins), "--no-deps", *options, "--format", "pylock.toml", "--output-file", str(lock))
        packages = tomllib.loads(lock.read_text())["packages"]
    lines: dict[bool, list[str]] = {True: [], False: []}
    for package in packages:
        files = package.get("wheels") or [package["sdist"]]
        hashes = sorted({f"--hash=sha256:{file['hashes']['sha256']}" for file in files})
        lines["wheels" in package].append(" ".join([f"{package['name']}=={package['version']}", *hashes]))
    return "\n".join([*lines[True], SOURCES, *lines[False]])


def uv(*arguments: str) -> None:
    """Resolves; uv says on stderr what is wrong."""
    subprocess.run(["uv", "pip", "compile", "--quiet", *TARGET, *arguments], cwd=ROOT, check=True)


def write(name: str, what: str, requirements: str) -> None:
    """Writes a lock under its head."""
    (ROOT / "docker" / name).write_text(f"{HEAD.format(what=what)}{requirements}\n")


if __name__ == "__main__":
    main()
