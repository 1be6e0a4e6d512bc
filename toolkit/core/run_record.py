"""run.yaml: how a result was made, saved beside it; `castmix <verb> --preset run.yaml` makes it again."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "av")
"""Those whose version can change a result."""

SECRETS = ("key", "token", "secret", "password", "server", "url")
"""An argument whose name ends in one of these stays out of the file."""


def write_run(path: Path, verb: str, arguments: Mapping[str, Any], **facts: Any) -> None:
    """Save the arguments of a verb, the versions and what else is known of a run.

    Args:
        path: The file to write, usually ``run.yaml`` beside the result.
        verb: The command's name, e.g. ``"train"``.
        arguments: The verb's keyword arguments as they were in force, groups included. Keys, passwords and
            server addresses are left out (see `SECRETS`).
        facts: More to remember, by name: fingerprints of data and model, seconds.
    """
    from toolkit.core.version import __version__

    known = {name: value for name, value in arguments.items() if not _is_secret(name)}
    run = {
        "castmix": __version__,
        "verb": verb,
        "arguments": _plain(known),
        "versions": {"python": platform.python_version(), **_versions()},
        **{name: _plain(fact) for name, fact in facts.items()},
    }
    write_atomic(path, yaml.safe_dump(run, sort_keys=False, allow_unicode=True, width=100))


def _is_secret(name: str) -> bool:
    return name.rpartition("_")[2] in SECRETS


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def _plain(value: Any) -> Any:
    """The value in what YAML knows: mappings, lists, text, numbers, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CastmixError(f"run.yaml cannot hold {value!r}: only text, numbers, lists and mappings")
