"""The castmix command, made from the signatures of the verbs: nothing is declared twice."""

from __future__ import annotations

import importlib
import logging
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from toolkit.cli.presets import RENAMED, preset_names, read_preset
from toolkit.cli.signatures import (
    REQUIRED,
    Setting,
    bind,
    convert,
    describe,
    groups,
    item_hint,
    settings,
    words,
)
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.core.version import __version__

Table = Mapping[str, "str | Table"]

COMMANDS: Table = {
    "prepare": "toolkit.commands.prepare:prepare",
    "caption": "toolkit.commands.caption:caption",
    "segment": "toolkit.commands.segment:segment",
    "composite": "toolkit.commands.composite:composite",
    "cache": "toolkit.commands.cache:cache",
    "train": "toolkit.commands.train:train",
    "learn-tokens": "toolkit.commands.learn_tokens:learn_tokens",
    "learn-motion": "toolkit.commands.learn_motion:learn_motion",
    "fuse": "toolkit.commands.fuse:fuse",
    "generate": "toolkit.commands.generate:generate",
    "attention-maps": "toolkit.commands.attention_maps:attention_maps",
    "evaluate": "toolkit.commands.evaluate:evaluate",
    "demo": "toolkit.commands.demo:demo",
    "sandbox": {
        "draw": "toolkit.sandbox.world.shows:draw",
        "pretrain": "toolkit.sandbox.base_model.pretrain:pretrain",
        "report": "toolkit.sandbox.base_model.report:report",
        "pretrain-sam2": "toolkit.sandbox.sam2_model.pretrain:pretrain_sam2",
    },
}
"""Commands in the order of the pipeline, by ``module:function``; imported when asked for."""

GROUPS = {"sandbox": "The embedded world and its tiny model: how they are made and how good they are."}


class Verbs(click.Group):
    """A group whose commands are made from functions when they are asked for."""

    def __init__(self, table: Table, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of that name, or an error that names the nearest."""
        if cmd_name in RENAMED and RENAMED[cmd_name] in self.table:
            say(f"note: `castmix {cmd_name}` is now `castmix {RENAMED[cmd_name]}`")
            cmd_name = RENAMED[cmd_name]
        if cmd_name not in self.table:
            raise click.exceptions.NoSuchCommand(cmd_name, possibilities=self.table, ctx=ctx)
        target = self.table[cmd_name]
        if isinstance(target, str):
            return command(cmd_name, find_verb(target))
        return Verbs(target, name=cmd_name, help=GROUPS[cmd_name])


class Verb(click.Command):
    """A command whose help shows each group of settings under a heading."""

    def __init__(self, headings: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of a group apart."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            group = (parameter.name or "").partition("__")[0]
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                sections.setdefault(self.headings.get(group, "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


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


def find_verb(target: str) -> Callable[..., Any]:
    """The function named ``module:function``."""
    module, _, function = target.partition(":")
    return typing.cast(Callable[..., Any], getattr(importlib.import_module(module), function))


def command(name: str, verb: Callable[..., Any]) -> click.Command:
    """Make the command of a verb: options, help and errors come from its signature and docstring."""
    known = settings(verb)
    argument = _argument_of(known)
    parameters: list[click.Parameter] = [_option(one) for one in known.values() if one is not argument]
    if argument is not None:
        parameters.insert(0, _argument(argument))
    about = "Settings from a preset or a run.yaml; flags win."
    parameters.append(click.Option(["--preset"], metavar="NAME|FILE", help=about))

    def callback(preset: str | None, **flags: Any) -> None:
        context = click.get_current_context()
        given = {
            setting.name: convert(flags[_identifier(setting)], setting.hint)
            for setting in known.values()
            if context.get_parameter_source(_identifier(setting)) is ParameterSource.COMMANDLINE
        }
        context.exit(_run(name, verb, preset, given))

    names = preset_names(name)
    return Verb(
        headings={
            name: describe(group)[0].partition("\n")[0].rstrip(".") for name, group in groups(verb).items()
        },
        name=name,
        callback=callback,
        params=parameters,
        help=describe(verb)[0],
        epilog=f"Presets: {', '.join(names)}" if names else None,
        no_args_is_help=any(setting.default is REQUIRED for setting in known.values()),
    )


def _run(name: str, verb: Callable[..., Any], preset: str | None, given: Mapping[str, Any]) -> int:
    """Call the verb; the exit status."""
    try:
        values = {**(read_preset(preset, name, verb) if preset else {}), **given}
        known = settings(verb)
        for setting in known.values():
            if setting.default is REQUIRED and setting.name not in values:
                written = _shout(setting.name) if setting is _argument_of(known) else _flag(setting)
                raise click.UsageError(f"Missing {written}: {words(setting.hint)}.")
        result = verb(**bind(verb, values))
    except CastmixError as error:
        print(f"castmix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("castmix: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    for made in result if isinstance(result, list) else [result]:
        if isinstance(made, (Path, str)):
            print(made)
    return 0


def _argument_of(known: Mapping[str, Setting]) -> Setting | None:
    """What a command works on comes without a flag: the first parameter, if it must be given.

    Where it writes is always --out.
    """
    first = next(iter(known.values()), None)
    return None if first is None or first.name == "out" or first.default is not REQUIRED else first


def _argument(setting: Setting) -> click.Argument:
    item = item_hint(setting.hint)
    return click.Argument(
        [_identifier(setting)],
        type=Value(item or setting.hint),
        nargs=-1 if item else 1,
        required=False,  # a preset may hold it: _run checks
        help=setting.help,
        metavar=_shout(setting.name) + ("..." if item else ""),
    )


def _option(setting: Setting) -> click.Option:
    flag = _flag(setting)
    text = " ".join([setting.help, _default(setting)]).strip()
    if bool in (setting.hint, *typing.get_args(setting.hint)):
        group, dot, last = flag[2:].rpartition(".")
        return click.Option(
            [f"{flag}/--{group}{dot}no-{last}", _identifier(setting)], default=None, help=text
        )
    item = item_hint(setting.hint)
    hint = item or setting.hint
    return click.Option(
        [flag, _identifier(setting)],
        type=Value(hint),
        metavar=_metavar(hint),
        multiple=item is not None,
        help=text + (" Repeat it for more." if item else ""),
    )


def _identifier(setting: Setting) -> str:
    return setting.name.replace(".", "__")


def _flag(setting: Setting) -> str:
    return "--" + setting.name.replace("_", "-")


def _shout(name: str) -> str:
    return name.upper().replace("_", "-")


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


def castmix(table: Table = COMMANDS) -> click.Group:
    """The command with all its verbs."""
    group = Verbs(
        table,
        name="castmix",
        help="Fine-tune a cast of characters from show footage and mix them in one video.",
        params=[],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog="Start with `castmix demo --out runs/demo`.",
    )
    click.version_option(__version__, prog_name="castmix", message="%(prog)s %(version)s")(group)
    return group


def main() -> None:
    """Run the castmix command on `sys.argv`."""
    # It says at every import that an optional CPU kernel is missing: nothing that a person could act on.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    castmix()(prog_name="castmix")
