"""Writes run.yaml, the record of a run. `castmix <command> --preset run.yaml` repeats the run."""

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
"""Libraries whose version can change a result. Their versions are recorded."""

SECRETS = ("key", "token", "secret", "password", "server", "url")
"""Arguments whose name ends in one of these words are not recorded."""


def write_run(path: Path, verb: str, arguments: Mapping[str, Any], **facts: Any) -> None:
    """Save a command's arguments, the library versions and further facts of a run.

    Args:
        path: The file to write, usually ``run.yaml`` beside the result.
        verb: Name of the command, e.g. ``"train"``.
        arguments: The command's keyword arguments with their final values, settings groups included. Keys,
            passwords and server addresses are left out (see `SECRETS`).
        facts: Further facts by name, e.g. fingerprints of data and model, or seconds of run time.

    Raises:
        CastmixError: A value cannot be written to YAML.
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
    """Convert a value to YAML's types: mappings, lists, text, numbers, None."""
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
    raise CastmixError(f"run.yaml cannot hold {value!r}: expected text, numbers, lists or mappings")
