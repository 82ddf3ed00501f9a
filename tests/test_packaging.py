"""The package as others install it: one wheel that holds the code, its data files and the settings of conf/."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("sdft_ray", "conf", "pyproject.toml", "README.md", "LICENSE")


def files_of(folder: Path) -> set[str]:
    """Relative paths of the source files below a folder."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel."""
    clone, wheels = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheels")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    (wheel,) = wheels.glob("sdft_ray-*.whl")
    zipfile.ZipFile(wheel).extractall(wheels / "unpacked")
    return wheels / "unpacked"


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("sdft_ray/**/__init__.py")]
    assert sorted(listed) == sorted([*found, "sdft_ray.conf"])


def test_the_wheel_holds_every_file_of_the_package_and_every_setting(installed: Path) -> None:
    conf = {f"conf/{name}" for name in files_of(ROOT / "conf")}
    assert files_of(installed / "sdft_ray") == files_of(ROOT / "sdft_ray") | conf


def test_the_installed_command_finds_its_settings_from_any_folder(installed: Path, tmp_path: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "sdft = sdft_ray.launch:main" in entry_points.read_text()
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "sdft_ray.launch", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "batch_size: 16" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
