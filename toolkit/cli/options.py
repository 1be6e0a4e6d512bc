"""Makes the arguments and options of a command from settings."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from toolkit.cli.signatures import REQUIRED, Setting, convert, item_hint


class Value(click.ParamType[Any]):
    """A value that is read by the verb's annotation."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value in the annotated type, or a usage error."""
        try:
            return convert(value, self.hint)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Option(click.Option):
    """The option of a setting, by all its names. Help and errors show the full one."""

    def __init__(self, setting: Setting, names: Iterable[str], **attributes: Any) -> None:
        names = dict.fromkeys([setting.name, *names])
        switch = _is_switch(setting)
        first = flag(setting.name) + (f"/{off(setting.name)}" if switch else "")
        super().__init__([first, identifier(setting)], **attributes)
        self.all_opts = [flag(name) for name in names]
        self.all_secondary_opts = [off(name) for name in names] if switch else []

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Make the parser know all names."""
        shown = self.opts, self.secondary_opts
        self.opts, self.secondary_opts = self.all_opts, self.all_secondary_opts
        super().add_to_parser(parser, ctx)
        self.opts, self.secondary_opts = shown


def argument(setting: Setting) -> click.Argument:
    """The positional argument of a setting. A list takes all remaining words."""
    item = item_hint(setting.hint)
    return click.Argument(
        [identifier(setting)],
        type=Value(item or setting.hint),
        nargs=-1 if item else 1,
        required=False,  # a preset may give it; the command checks
        help=setting.help,
        metavar=placeholder(setting.name) + ("..." if item else ""),
    )


def option(setting: Setting, names: Iterable[str]) -> Option:
    """The option of a setting, by its full name and by these others."""
    text = " ".join([setting.help, _default(setting)]).strip()
    if _is_switch(setting):
        return Option(setting, names, default=None, help=text)
    item = item_hint(setting.hint)
    hint = item or setting.hint
    return Option(
        setting,
        names,
        type=Value(hint),
        metavar=_metavar(hint),
        multiple=item is not None,
        help=text + (" Repeatable." if item else ""),
    )


def _is_switch(setting: Setting) -> bool:
    return bool in (setting.hint, *typing.get_args(setting.hint))


def identifier(setting: Setting) -> str:
    """The setting's name as click hands it on."""
    return setting.name.replace(".", "__")


def flag(name: str) -> str:
    """The name as an option: ``--optim.grad-clip``."""
    return "--" + name.replace("_", "-")


def placeholder(name: str) -> str:
    """The name in a usage line: ``MOTION-CLIP``."""
    return name.upper().replace("_", "-")


def off(name: str) -> str:
    """The name as the option that turns it off: ``--optim.no-fused``."""
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
