"""Objects against schemas: KubeRay's from its CustomResourceDefinition, Kubernetes' own from a kept library.

An API server drops a field that it does not know, without a word, so here every schema is made strict.
"""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from sdft_ray.config.kubernetes import LARGEST_INT32
from sdft_ray.errors import ConfigError
from sdft_ray.targets.kuberay.finding import Finding

RAY_VERSION = "v1"  # of the custom resources
KUBERNETES_VERSION = "1.30"  # whose schemas the native kinds are held to: nothing rendered is newer
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the definition has 30,000 lines: 10 s without C
TRANSITION_VARIABLE = "oldSelf"  # rules with it compare two versions of an object, of which there is only one here
_KEPT = (
    "type",
    "enum",
    "required",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "additionalProperties",
)


class RayJobSchema:
    """The schema of RayJob, with its rules in CEL."""

    def __init__(self, definition: Path):
        """Reads a CustomResourceDefinition.

        Args:
            definition: ray.io_rayjobs.yaml of KubeRay's release, as it is or packed by gzip.

        Raises:
            ConfigError: the file cannot be read, or defines something else.
        """
        key, remedy = "target.crds", "give ray.io_rayjobs.yaml of the KubeRay release that your cluster runs"
        try:
            raw = definition.read_bytes()
            text = gzip.decompress(raw) if definition.suffix == ".gz" else raw
            versions = yaml.load(text, Loader=_LOADER)["spec"]["versions"]
            (schema,) = (of["schema"]["openAPIV3Schema"] for of in versions if of["name"] == RAY_VERSION)
        except OSError as error:
            raise ConfigError(key, definition, f"cannot be read ({error.strerror or error})", remedy) from error
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
            raise ConfigError(key, definition, "is no CustomResourceDefinition of RayJob", remedy) from error
        self._schema: dict[str, Any] = schema
        self._validator = Draft202012Validator(strict(schema, is_root=True))

    def findings(self, job: Mapping[str, Any]) -> Iterator[Finding]:
        """What the API server would refuse or drop."""
        for error in sorted(self._validator.iter_errors(job), key=lambda error: list(map(str, error.absolute_path))):
            yield Finding("/".join(["RayJob", *map(str, error.absolute_path)]), error.message)
        yield from _broken_rules(self._schema, job, "RayJob")


def strict(schema: Mapping[str, Any], *, is_root: bool = False) -> dict[str, Any]:
    """A structural schema of Kubernetes as a JSON schema that refuses unknown fields.

    Args:
        schema: an openAPIV3Schema, or a part of one.
        is_root: whether it is of a whole object, whose metadata the API server checks itself.
    """
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("format") == "int32":
        kept = {"minimum": -LARGEST_INT32 - 1, "maximum": LARGEST_INT32} | kept
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(kept.get("type"), str):
        kept["type"] = [kept["type"], "null"]
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), Mapping):
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    if "properties" in schema:
        kept["properties"] = {
            name: {"type": "object"} if is_root and name == "metadata" else strict(of)
            for name, of in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    return kept


def _broken_rules(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[Finding]:
    """The rules in CEL of a schema, and of everything below it, that a value breaks."""
    import cel  # an extra, and only for this

    for rule in schema.get("x-kubernetes-validations", []):
        if TRANSITION_VARIABLE not in rule["rule"] and not cel.evaluate(rule["rule"], {"self": value}):
            yield Finding(where, rule["message"])
    if isinstance(value, Mapping):
        for name, of in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(of, value[name], f"{where}/{name}")
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _broken_rules(schema["items"], item, f"{where}/{index}")


def native_findings(thing: Mapping[str, Any]) -> Iterator[Finding]:
    """What the API server would refuse or drop of an object of Kubernetes' own kinds."""
    import kubernetes_validate  # an extra, and only for this

    try:
        kubernetes_validate.validate(dict(thing), KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield Finding("/".join([str(thing["kind"]), *map(str, error.path)]), error.message)
