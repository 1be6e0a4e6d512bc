"""Reads a verb's signature, from which the command line and the presets are made.

A verb is a function with full annotations and a docstring in Google style. The `Args:` section is the help of
its options. A parameter whose type is a frozen dataclass is a group of settings. The class's `Attributes:`
section is their help, and their names are dotted: `optim.lr`. A field whose type is again a frozen dataclass
is a group inside the group: `objective.sigma.shift`.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.cli.synonyms import VALUES

REQUIRED = inspect.Parameter.empty

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Examples?|Notes?):$")
_ENTRY = re.compile(r"(\w+)(?: \(.*?\))?:\s*(.*)")
_LISTS = (list, collections.abc.Sequence)
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class Setting:
    """One value that a verb takes.

    Attributes:
        name: Full name: ``"steps"``, or with its groups ``"optim.lr"``.
        hint: Resolved annotation.
        default: `REQUIRED` if there is none.
        help: Its entry in the docstring.
    """

    name: str
    hint: Any
    default: Any
    help: str


def settings(verb: Callable[..., Any]) -> dict[str, Setting]:
    """Every value that the verb takes, also in groups, by full name in the order of the signature."""
    hints = typing.get_type_hints(verb)
    _, texts = describe(verb)
    found: dict[str, Setting] = {}
    for parameter in inspect.signature(verb).parameters.values():
        name, hint, default = parameter.name, hints[parameter.name], parameter.default
        if is_group(hint):
            for inner in settings(hint).values():
                value = inner.default if default is REQUIRED else operator.attrgetter(inner.name)(default)
                setting = dataclasses.replace(inner, name=f"{name}.{inner.name}", default=value)
                found[setting.name] = setting
        else:
            found[name] = Setting(name, hint, default, texts.get(name, ""))
    return found


def groups(verb: Callable[..., Any]) -> dict[str, type]:
    """The classes of the verb's groups by full name, groups inside groups included."""
    hints = typing.get_type_hints(verb)
    found: dict[str, type] = {}
    for name in inspect.signature(verb).parameters:
        if is_group(hint := hints[name]):
            found[name] = hint
            found |= {f"{name}.{inner}": group for inner, group in groups(hint).items()}
    return found


def bind(verb: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the verb from values by full name.

    A group starts from the verb's default, or from a value given for the group as a whole; only the fields
    that are given are replaced.
    """
    parameters = inspect.signature(verb).parameters
    return _bound(values, lambda name: parameters[name].default)


def _bound(values: Mapping[str, Any], default: Callable[[str], Any]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        if dot:
            inside.setdefault(first, {})[rest] = value
        else:
            bound[first] = value
    for name, changes in inside.items():
        group = bound[name] if name in bound else default(name)
        bound[name] = dataclasses.replace(group, **_bound(changes, functools.partial(getattr, group)))
    return bound


def describe(verb: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The docstring's prose before its first section, and its `Args:` or `Attributes:` by name."""
    prose: list[str] = []
    entries: dict[str, str] = {}
    section = name = ""
    for line in (inspect.getdoc(verb) or "").replace("``", "`").splitlines():
        if heading := _SECTION.match(line):
            section = heading[1]
        elif not section:
            prose.append(line)
        elif section in ("Args", "Attributes"):
            indent, text = len(line) - len(line.lstrip()), line.strip()
            if indent == 4 and (entry := _ENTRY.match(text)):
                name, text = entry[1], entry[2]
                entries[name] = text
            elif name and text:
                entries[name] = f"{entries[name]} {text}".strip()
    return "\n".join(prose).strip(), entries


def convert(value: Any, hint: Any) -> Any:
    """Convert a value from a YAML file or the command line to the type of the annotation.

    Text becomes a number where the annotation is one (YAML 1.1 reads `1e-4` as text), and `a,b,c` a tuple.

    Raises:
        ValueError: The value does not fit; the message says what was expected.
        TypeError: The command line does not support the annotation.
    """
    try:
        return _read(value, hint)
    except ValueError:
        raise ValueError(f"expected {words(hint)}, got {value!r}") from None


def item_hint(hint: Any) -> Any:
    """Type of the items of a list annotation (`list[Path] | None` → `Path`). None for other annotations."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return next((item for option in inside if (item := item_hint(option))), None)
    if origin in _LISTS or (origin is tuple and inside[-1] is Ellipsis):
        return inside[0]
    return None


def _read(value: Any, hint: Any) -> Any:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        # None first: `--height none` undoes a preset's height.
        for option in sorted(inside, key=lambda option: option is not type(None)):
            with contextlib.suppress(ValueError):
                return _read(value, option)
        raise ValueError
    if origin is Literal:
        return _one_of(value, inside)
    if (item := item_hint(hint)) is not None:
        items = value if isinstance(value, (list, tuple)) else [value]
        made = [_read(one, item) for one in items]
        return tuple(made) if origin is tuple else made
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or len(items) != len(inside):
            raise ValueError
        return tuple(_read(one, item) for one, item in zip(items, inside, strict=True))
    if hint not in _SCALARS:
        raise TypeError(f"a verb cannot take {hint}: the command line and presets cannot express it")
    return _SCALARS[hint](value)


def is_group(hint: Any) -> bool:
    """Whether the annotation is a group of settings: a dataclass."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _one_of(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if str(option) in (str(value), VALUES.get(str(value))):
            return option
    raise ValueError


def _none(value: Any) -> None:
    if value is not None and value != "none":
        raise ValueError


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)) or value == "":
        raise ValueError
    return Path(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    type(None): _none,
    bool: _bool,
    str: _str,
    Path: _path,
    float: _float,
    int: _int,
}

_WORDS: dict[Any, str] = {
    type(None): "none",
    bool: "true or false",
    str: "text",
    Path: "a path",
    float: "a number",
    int: "a whole number",
}


def words(hint: Any) -> str:
    """The annotation in plain words, for messages: "a number or none", "one of a, b"."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(words(option) for option in inside)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if (item := item_hint(hint)) is not None:
        return f"a list (each {words(item)})"
    if origin is tuple:
        return f"{len(inside)} values (each {words(inside[0])})"
    return _WORDS[hint]
