"""Reads YAML files with checked fields. Errors name the file, the key, the value and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolkit.core.choices import did_you_mean, nearest
from toolkit.core.errors import CastmixError


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        CastmixError: It cannot be read, or a key stands twice in one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CastmixError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    nodes = [root]
    for node in nodes:  # yaml keeps the last of two equal keys without a word
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [key for key in keys if keys.count(key) > 1]:
                line = node.start_mark.line + 1
                raise CastmixError(f"{path}: the key {twice[0]!r} stands twice in the entry at line {line}")
            nodes.extend(value for _, value in node.value)
    return yaml.safe_load(text)


def check_mapping(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    """The value, if it is a mapping of known keys. where: what a message begins with, such as the file."""
    if not isinstance(value, dict):
        raise CastmixError(f"{where}: expected the keys {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            meant = did_you_mean(nearest(str(key), known), known)
            raise CastmixError(f"{where}: unknown key {key!r}: {meant}")
    return value


def read_text(fields: dict[str, Any], key: str, where: str, required: bool = False) -> str:
    """A text of a mapping, with single spaces; "" if it is not there and not required."""
    value = fields.get(key, None if required else "")
    if not isinstance(value, str) or (required and not value.strip()):
        raise wrong(where, key, value, "text (in quotes, if a word like yes or 12)")
    return " ".join(value.split())


def read_texts(fields: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts of a mapping; () if it is not there."""
    values = fields.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise wrong(where, key, values, "a list of texts (words like yes or 12 in quotes)")
    return tuple(" ".join(value.split()) for value in values)


def wrong(where: str | Path, key: str, value: object, expected: str) -> CastmixError:
    """The error for a value of a YAML file."""
    return CastmixError(f"{where}: {key}: {value!r}: expected {expected}")
