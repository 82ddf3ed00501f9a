"""Jobs for the tests of KubeRay, and KubeRay's own definitions where they lie beside the project."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import RunConfig
from sdft_ray.targets.kuberay.objects import render
from sdft_ray.targets.kuberay.schema import RayJobSchema
from tests.test_conf import compose_with

SHARED = Path(os.environ.get("SDFT_RAY_KUBERAY") or Path(__file__).parents[4] / "shared" / "kuberay")
DEFINITION = SHARED / "v1.7.0" / "ray.io_rayjobs.yaml.gz"
GIVEN = ("target=kuberay", "name=billing", "target.image=registry/sdft_ray:gpu", "target.storage.claim=training")


def job_config(*overrides: str) -> RunConfig:
    chosen = () if any(override.startswith("+cluster=") for override in overrides) else ("+cluster=8xA100",)
    return compose_with(*chosen, *GIVEN, *overrides)


def rendered(*overrides: str) -> dict[str, dict[str, Any]]:
    """The objects of a job by their kind."""
    return {thing["kind"]: thing for thing in render([[("", job_config(*overrides))]])}


@cache
def schema() -> RayJobSchema:
    if not DEFINITION.is_file():
        pytest.skip(f"{DEFINITION} is not there: KubeRay's definitions are no part of the project")
    return RayJobSchema(DEFINITION)
