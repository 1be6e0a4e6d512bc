"""Presets: YAML files with the keyword arguments of one verb. A run.yaml is a preset too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from toolkit.cli.names import SettingNameError, resolve
from toolkit.cli.signatures import convert, settings
from toolkit.cli.synonyms import RENAMED
from toolkit.core.errors import CastmixError
from toolkit.core.package_data import presets_folder


def preset_names(verb: str) -> list[str]:
    """Names of castmix's own presets for this verb."""
    return sorted(path.stem for path in (presets_folder() / verb).glob("*.yaml"))


def read_preset(preset: str, name: str, verb: Callable[..., Any]) -> dict[str, Any]:
    """Values by full name, checked against the verb's signature and converted to its types.

    The file may use short names and synonyms (see `names`), nested or dotted.

    Args:
        preset: A name under ``presets/<verb>/``, or the path of a YAML file: a preset or a ``run.yaml``.
        name: The command's name, e.g. ``"train"``.
        verb: Its function.

    Raises:
        CastmixError: The preset does not exist, or it has settings or values that the verb does not take. The
            message lists all of them, each with the nearest valid name.
    """
    path = _find(preset, name)
    document = _read(path)
    if "verb" in document and "arguments" in document:
        if RENAMED.get(document["verb"], document["verb"]) != name:
            raise CastmixError(f"{path} is a run of `castmix {document['verb']}`, not of `castmix {name}`")
        document = _mapping(document["arguments"], path)
    known = settings(verb)
    values: dict[str, Any] = {}
    problems = []
    for key, value in _flatten(document):
        try:
            setting = known[resolve(key, known)]
            if setting.name in values:
                raise SettingNameError("sets {} a second time", [setting.name])
            values[setting.name] = convert(value, setting.hint)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise CastmixError(f"{path}: {'; '.join(problems)}")
    return values


def _find(preset: str, verb: str) -> Path:
    if preset.endswith((".yaml", ".yml")):
        path = Path(preset)
        if not path.is_file():
            raise CastmixError(f"no preset file {path}")
        return path
    path = presets_folder() / verb / f"{preset}.yaml"
    if not path.is_file():
        names = ", ".join(preset_names(verb)) or "it has none"
        raise CastmixError(
            f"no preset {preset!r} for {verb}: give one of its presets ({names}) or a .yaml file"
        )
    return path


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CastmixError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return _mapping(document, path)


def _mapping(document: Any, path: Path) -> Mapping[str, Any]:
    if document is None:  # an empty file
        return {}
    if not isinstance(document, Mapping):
        raise CastmixError(f"{path} must hold settings as `name: value`, got {document!r:.80}")
    return document


def _flatten(document: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    """`{optim: {lr: 1}}` as `optim.lr`."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", item) for inner, item in _flatten(value))
        else:
            yield str(key), value
