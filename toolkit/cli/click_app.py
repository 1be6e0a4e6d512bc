"""The castmix command. Its options and help come from the signatures and docstrings of the verbs."""

from __future__ import annotations

import importlib
import logging
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from toolkit.cli import options
from toolkit.cli.names import SettingNameError, resolve, spellings
from toolkit.cli.presets import preset_names, read_preset
from toolkit.cli.signatures import (
    REQUIRED,
    Setting,
    bind,
    convert,
    describe,
    groups,
    settings,
    words,
)
from toolkit.cli.synonyms import RENAMED
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
"""Commands in the order of the pipeline, each with its ``module:function``, imported on first use."""

GROUPS = {"sandbox": "Make and measure the sandbox: its drawn shows and its small models."}


class Verbs(click.Group):
    """A group of commands. Each is made from its function on first use."""

    def __init__(self, table: Table, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of that name, or an error that suggests the nearest."""
        cmd_name = cmd_name.replace("_", "-")
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

    def __init__(self, known: Mapping[str, Setting], headings: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.known = known
        self.headings = headings

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise self._explained(error, ctx) from error

    def _explained(self, error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
        """The error of an unknown option, in the words of `resolve`."""
        try:
            name = resolve(error.option_name.lstrip("-"), self.known)
        except SettingNameError as wrong:
            reason = wrong.message(options.flag)
        else:  # a setting without an option
            reason = f"write {options.placeholder(name)} without it"
        return click.UsageError(f"{error.option_name}: {reason}", ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under a heading of its own."""
        sections: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in self.get_params(ctx):
            group = (parameter.name or "").rpartition("__")[0].replace("__", ".")
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                sections.setdefault(group, []).append(record)
        for group, records in sections.items():
            with formatter.section(self.headings.get(group, "Options")):
                formatter.write_dl(records)


def find_verb(target: str) -> Callable[..., Any]:
    """The function named ``module:function``."""
    module, _, function = target.partition(":")
    return typing.cast(Callable[..., Any], getattr(importlib.import_module(module), function))


def command(name: str, verb: Callable[..., Any]) -> click.Command:
    """The command of a verb."""
    known = settings(verb)
    argument = _argument_of(known)
    names: dict[str, list[str]] = {}
    for short, full in spellings(known).items():
        names.setdefault(full, []).append(short)
    parameters: list[click.Parameter] = [
        options.option(one, names[one.name]) for one in known.values() if one is not argument
    ]
    if argument is not None:
        parameters.insert(0, options.argument(argument))
    about = "Take settings from a preset or a run.yaml. Flags override it."
    parameters.append(click.Option(["--preset"], metavar="NAME|FILE", help=about))

    def callback(preset: str | None, **flags: Any) -> None:
        context = click.get_current_context()
        given = {
            setting.name: convert(flags[options.identifier(setting)], setting.hint)
            for setting in known.values()
            if context.get_parameter_source(options.identifier(setting)) is ParameterSource.COMMANDLINE
        }
        context.exit(_run(name, verb, preset, given))

    return Verb(
        known=known,
        headings={
            group: describe(hint)[0].partition("\n")[0].rstrip(".") for group, hint in groups(verb).items()
        },
        name=name,
        callback=callback,
        context_settings={"token_normalize_func": lambda option: option.replace("_", "-")},
        params=parameters,
        help=describe(verb)[0],
        epilog="\n\n".join(_notes(name, known)),
        no_args_is_help=any(setting.default is REQUIRED for setting in known.values()),
    )


def _notes(name: str, known: Mapping[str, Setting]) -> Iterator[str]:
    """The lines below the options: which presets there are, and short names."""
    if presets := preset_names(name):
        yield f"Presets: {', '.join(presets)}"
    short = spellings(known)
    example = next((end for full in known if "." in full and (end := full.rpartition(".")[2]) in short), None)
    if example:
        yield f"Options also work without their group's name where that is unique: {options.flag(example)}."


def _run(name: str, verb: Callable[..., Any], preset: str | None, given: Mapping[str, Any]) -> int:
    """Call the verb and print the paths that it returns. Returns the exit status."""
    try:
        values = {**(read_preset(preset, name, verb) if preset else {}), **given}
        known = settings(verb)
        for setting in known.values():
            if setting.default is REQUIRED and setting.name not in values:
                spell = options.placeholder if setting is _argument_of(known) else options.flag
                raise click.UsageError(f"Missing {spell(setting.name)}: {words(setting.hint)}.")
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
    """The setting that is given without a flag: the first, if it is required. `out` is always --out."""
    first = next(iter(known.values()), None)
    return None if first is None or first.name == "out" or first.default is not REQUIRED else first


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
    # At every import it warns that an optional CPU kernel is missing. Nobody can act on that.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    castmix()(prog_name="castmix")
