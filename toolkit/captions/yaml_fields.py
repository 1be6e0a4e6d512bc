"""Reads YAML files and checks their fields. Errors name file, key, value and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolkit.core.choices import did_you_mean, nearest
from toolkit.core.errors import CastmixError


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        CastmixError: The file cannot be read, or a mapping has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CastmixError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    nodes = [root]
    for node in nodes:  # the yaml library silently uses the last of two equal keys
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [key for key in keys if keys.count(key) > 1]:
                line = node.start_mark.line + 1
                raise CastmixError(
                    f"{path}: the entry at line {line} has the key {twice[0]!r} twice: remove one of them"
                )
            nodes.extend(value for _, value in node.value)
    return yaml.safe_load(text)


def check_mapping(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    """Check that a value is a mapping with known keys, and return it.

    where: Beginning of error messages, e.g. the file.
    """
    if not isinstance(value, dict):
        raise CastmixError(f"{where}: expected the keys {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            meant = did_you_mean(nearest(str(key), known), known)
            raise CastmixError(f"{where}: unknown key {key!r}: {meant}")
    return value


def read_text(fields: dict[str, Any], key: str, where: str, required: bool = False) -> str:
    """Return a text of a mapping, with whitespace joined. A missing text is "" unless it is required."""
    value = fields.get(key, None if required else "")
    if not isinstance(value, str) or (required and not value.strip()):
        raise field_error(where, key, value, "text (in quotes, if a word like yes or 12)")
    return " ".join(value.split())


def read_texts(fields: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a list of texts of a mapping; () if it is missing."""
    values = fields.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise field_error(where, key, values, "a list of texts (words like yes or 12 in quotes)")
    return tuple(" ".join(value.split()) for value in values)


def field_error(where: str | Path, key: str, value: object, expected: str) -> CastmixError:
    """Return the error for a wrong value in a YAML file."""
    return CastmixError(f"{where}: {key}: {value!r}: expected {expected}")
