"""Verbs as Python functions that take what the command line takes: short names, synonyms, single paths."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.cli.names import SettingNameError, resolve
from toolkit.cli.signatures import bind, groups, is_group, item_hint, settings
from toolkit.cli.synonyms import VALUES


@functools.cache
def flexible(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, with its own signature and docstring, made to accept more.

    - A keyword argument may be the full name, a short name or a synonym of any setting:
      ``train("data", "run", lr=1e-3)`` sets `optim.lr`, on top of an `optim` that is given as well. A mapping
      sets fields of a group.
    - A single path or text stands for a list of one. Text stands for a path, and a path for text.

    The function that is returned raises TypeError if an argument stands for no setting, for several, or for
    one that is given twice.
    """

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(verb).bind_partial(*args).arguments
        return verb(**_arguments(verb, [*given.items(), *kwargs.items()]))

    return call


def _arguments(verb: Callable[..., Any], given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The verb's own keyword arguments from arguments by any name."""
    known, inner = settings(verb), groups(verb)
    hints = inner | {name: setting.hint for name, setting in known.items()}
    values: dict[str, Any] = {}
    for name, value in _flat(given):
        try:
            full = resolve(name, inner if type(value) in inner.values() else known)
            if full in inner and type(value) is not inner[full]:
                wanted, got = inner[full].__name__, type(value).__name__
                raise SettingNameError(f"{{}} is of type {wanted}, not {got}", [full])
            if full in values:
                raise SettingNameError("sets {} a second time", [full])
        except SettingNameError as error:
            raise TypeError(f"{verb.__name__}() got {name}: {error}") from None
        values[full] = accept(value, hints[full])
    return bind(verb, values)


def _flat(given: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`optim={"lr": 1}` as `optim.lr`."""
    for name, value in given:
        if isinstance(value, Mapping):
            yield from _flat((f"{name}.{field}", one) for field, one in value.items())
        else:
            yield name, value


def accept(value: Any, hint: Any) -> Any:
    """The value as the annotation has it, as far as that takes no guess; anything else stays as it is."""
    if is_group(hint):
        hints = typing.get_type_hints(hint)
        fields = {
            one.name: accept(getattr(value, one.name), hints[one.name]) for one in dataclasses.fields(hint)
        }
        return dataclasses.replace(value, **fields)
    options = _options(hint)
    lists = [option for option in options if item_hint(option) is not None]
    is_single = isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable)
    if lists and value is not None and not (is_single and set(options) - {*lists, type(None)}):
        items = [accept(one, item_hint(lists[0])) for one in ([value] if is_single else value)]
        kind = typing.get_origin(lists[0])
        return tuple(items) if kind is tuple or (isinstance(value, tuple) and kind is not list) else items
    if isinstance(value, str) and Path in options and str not in options:
        return Path(value)
    if isinstance(value, Path) and str in options and Path not in options:
        return str(value)
    choices = [choice for option in options for choice in typing.get_args(option)]
    return VALUES[value] if isinstance(value, str) and VALUES.get(value) in choices else value


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)
