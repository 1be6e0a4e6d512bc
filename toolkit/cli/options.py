"""Makes the arguments and options of a command from settings."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from toolkit.cli.signatures import REQUIRED, Setting, convert, item_hint


class Value(click.ParamType[Any]):
    """A value read by the verb's own annotation."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value in the annotated type; what it cannot be is a usage error."""
        try:
            return convert(value, self.hint)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FullName(click.Option):
    """An option whose help shows only its full name."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """What `--help` says of it."""
        opts, secondary = self.opts, self.secondary_opts
        self.opts, self.secondary_opts = opts[:1], secondary[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts, self.secondary_opts = opts, secondary


def argument(setting: Setting) -> click.Argument:
    """The positional argument of a setting; a list takes all that are left."""
    item = item_hint(setting.hint)
    return click.Argument(
        [identifier(setting)],
        type=Value(item or setting.hint),
        nargs=-1 if item else 1,
        required=False,  # a preset may hold it: the command checks
        help=setting.help,
        metavar=placeholder(setting.name) + ("..." if item else ""),
    )


def option(setting: Setting, names: Iterable[str]) -> click.Option:
    """The option of a setting, by its full name and by these others; help shows the full name."""
    names = dict.fromkeys([setting.name, *names])
    text = " ".join([setting.help, _default(setting)]).strip()
    if bool in (setting.hint, *typing.get_args(setting.hint)):
        switches = [f"{flag(name)}/{_off(name)}" for name in names]
        return FullName([*switches, identifier(setting)], default=None, help=text)
    item = item_hint(setting.hint)
    hint = item or setting.hint
    return FullName(
        [*map(flag, names), identifier(setting)],
        type=Value(hint),
        metavar=_metavar(hint),
        multiple=item is not None,
        help=text + (" Repeat it for more." if item else ""),
    )


def identifier(setting: Setting) -> str:
    """The setting's name as click hands it on."""
    return setting.name.replace(".", "__")


def flag(name: str) -> str:
    """The name as an option: ``--optim.grad-clip``."""
    return "--" + name.replace("_", "-")


def placeholder(name: str) -> str:
    """The name in a usage line: ``MOTION-CLIP``."""
    return name.upper().replace("_", "-")


def _off(name: str) -> str:
    group, dot, last = name.rpartition(".")
    return flag(f"{group}{dot}no-{last}")


def _default(setting: Setting) -> str:
    value = setting.default
    if value is REQUIRED:
        return "[required]"
    if value is None or value == "" or value == () or value == []:
        return ""
    if isinstance(value, bool):
        return f"[default: {'on' if value else 'off'}]"
    if isinstance(value, (tuple, list)):
        return f"[default: {','.join(map(str, value))}]"
    return f"[default: {value}]"


def _metavar(hint: Any) -> str:
    inside = [option for option in typing.get_args(hint) if option is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, inside))
    if typing.get_origin(hint) is tuple:
        return ",".join(["N"] * len(inside))
    if inside:
        return _metavar(inside[0])
    return {int: "N", float: "X", Path: "PATH"}.get(hint, "TEXT")
