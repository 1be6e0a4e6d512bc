"""Every command of the real table: few parameters, help for all of them, no two options of one name."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import toolkit
from toolkit.cli.click_app import COMMANDS, Table, castmix, command, find_verb
from toolkit.cli.options import Option
from toolkit.cli.signatures import describe, settings
from toolkit.cli.synonyms import RENAMED
from toolkit.core.errors import CastmixError

MOST = 12
"""Parameters of a verb."""


def commands(table: Table = COMMANDS, before: str = "") -> Iterator[tuple[str, str]]:
    """The words that call each command, those of groups included, and its function."""
    for name, target in table.items():
        if isinstance(target, str):
            yield before + name, target
        else:
            yield from commands(target, f"{name} ")


VERBS = dict(commands())


def collisions(name: str, verb: Callable[..., Any]) -> list[str]:
    """Option names and identifiers that a command has twice."""
    found: Counter[str] = Counter(["--help", "-h"])
    for parameter in command(name, verb).params:
        is_option = isinstance(parameter, Option)
        opts = parameter.all_opts + parameter.all_secondary_opts if is_option else parameter.opts
        found.update({*opts, f"identifier {parameter.name}"} if is_option else opts)
    return [word for word, count in found.items() if count > 1]


@pytest.mark.parametrize("words", VERBS)
def test_no_verb_has_too_many_parameters(words: str) -> None:
    count = len(inspect.signature(find_verb(VERBS[words])).parameters)
    assert count <= MOST, f"{words} has {count}, group some by subject"


@pytest.mark.parametrize("words", VERBS)
def test_every_option_has_help(words: str) -> None:
    verb = find_verb(VERBS[words])
    assert describe(verb)[0], f"{words} has no docstring"
    bare = [name for name, setting in settings(verb).items() if not setting.help]
    assert not bare, f"the docstring of {words} does not describe {bare}"
    assert CliRunner().invoke(castmix(), [*words.split(), "--help"]).exit_code == 0


@pytest.mark.parametrize("words", VERBS)
def test_option_names_are_unique(words: str) -> None:
    assert collisions(words, find_verb(VERBS[words])) == []


def test_a_planted_collision_is_found() -> None:
    def switches(*, fast: bool = True, no_fast: bool = False, help: str = "", preset: str = "") -> None:
        """Switch."""

    assert set(collisions("switches", switches)) == {"--no-fast", "--help", "--preset"}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("train d --out o --learning-rate 1e-3", "optim.lr", 1e-3),
        ("train d --output_dir o --lora_rank=8", "adapter.rank", 8),
        ("train d --out o --max-train-steps 9", "steps", 9),
        ("train d --out o --num-inference-steps 9", "watch.sample_steps", 9),
        ("train d --out o --gradient-checkpointing", "memory.checkpointing", True),
        ("train d --out o --no-gradient-checkpointing", "memory.checkpointing", False),
        ("train d --out o --mixed-precision bf16", "memory.precision", "bfloat16"),
        ("train d --out o --flow-shift 5", "sigma.shift", 5.0),
        ("train d --out o --sigma.shift 5", "objective.sigma.shift", 5.0),
        ("train d --out o --objective motion", "objective.name", "motion"),
        ("train d --out o --tokens t", "adapter.tokens", Path("t")),
        ("train d --out o --motion.tokens t", "objective.motion.tokens", Path("t")),
        ("train d --out o --save-every 9", "watch.save_every", 9),
        ("train d --out o --composites 0.1", "batches.composites", 0.1),
        ("learn-motion d --out o --batch-size 9", "training.batch_size", 9),
        ("learn-motion d --out o --optim.lr 9", "training.optim.lr", 9.0),
        ("fuse a --out o --rank 9", "file.rank", 9),
        ("fuse a --out o --pairs p", "examples.pairs", Path("p")),
        ("fuse a --out o --clips p", "examples.clips", (Path("p"),)),
        ("fuse a --out o --optim.lr 9", "distil.optim.lr", 9.0),
        ("fuse a --out o --distil.sigma 0.1,0.2", "distil.map_sigma", (0.1, 0.2)),
        ("fuse a --out o --squares.clips 9", "squares.max_clips", 9),
        ("generate p --out o --num-inference-steps 9", "steps", 9),
        ("generate p --out o --cfg 4", "guidance_scale", 4.0),
        ("generate p --out o --no-spatial", "collaboration.spatial", False),
        ("generate p --out o --collaboration.no-spatial", "collaboration.spatial", False),
    ],
)
def test_short_names_and_synonyms_of_real_commands(words: str, name: str, value: object) -> None:
    verb, *rest = words.split()
    params = command(verb, find_verb(VERBS[verb])).make_context(verb, rest).params
    given = {full: params[full] for full in params if f"__{full}".endswith("__" + name.replace(".", "__"))}
    assert list(given.values()) == [value]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gradient-accumulation-steps 4", "castmix has no gradient accumulation, use a larger --batch"),
        ("--num-train-epochs 4", "castmix counts steps, not epochs, use --steps"),
        ("--resume-from-checkpoint", "run the same command with the same --out"),
        ("--learning-rat 4", "no such setting, did you mean --optim.lr?"),
        ("--data d", "--data: write DATA without it"),
    ],
)
def test_unsupported_train_options_name_the_alternative(words: str, message: str) -> None:
    result = CliRunner().invoke(castmix(), ["train", "d", "--out", "o", *words.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_command_works_and_says_its_new_name_once(old: str, new: str) -> None:
    result = CliRunner().invoke(castmix(), [old, "--help"], prog_name="castmix")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"note: `castmix {old}` is now `castmix {new}`\n"
    same = CliRunner().invoke(castmix(), [new, "--help"], prog_name="castmix")
    assert result.stdout.split()[4:] == same.stdout.split()[4:]  # after "Usage: castmix NAME [OPTIONS]"


def test_a_command_may_be_written_as_in_python() -> None:
    assert CliRunner().invoke(castmix(), ["learn_motion", "--help"]).exit_code == 0


@pytest.mark.parametrize("words", [words for words in VERBS if " " not in words])
def test_help_says_once_that_short_names_work(words: str) -> None:
    text = CliRunner().invoke(castmix(), [words, "--help"], prog_name="castmix").stdout
    hint = "Options also work without their group's name where that is unique: --"
    has_groups = any("." in name for name in settings(find_verb(VERBS[words])))
    assert " ".join(text.split()).count(hint) == has_groups
    if has_groups:  # and the example is true
        example = " ".join(text.split()).partition(hint)[2].split()[0].rstrip(".")
        known = command(words, find_verb(VERBS[words])).params
        assert [one for one in known if isinstance(one, Option) and f"--{example}" in one.all_opts]


def test_a_single_path_is_not_taken_for_letters(tmp_path: Path) -> None:
    absent = tmp_path / "film.mp4"
    for given in (absent, str(absent), [absent]):
        with pytest.raises(CastmixError, match=str(absent)):
            toolkit.prepare(given, tmp_path / "out")  # type: ignore[arg-type]


def test_python_takes_short_names(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="nothing-here"):
        toolkit.train("nothing-here", str(tmp_path), steps=10, batch_size=2, lr=1e-3, rank=8)  # type: ignore
    with pytest.raises(TypeError, match=r"leaning_rate: no such setting, did you mean optim\.lr"):
        toolkit.train("nothing-here", str(tmp_path), leaning_rate=1e-3)  # type: ignore


def test_a_context_of_the_real_app_finds_commands_in_groups() -> None:
    app = castmix()
    sandbox = app.get_command(click.Context(app), "sandbox")
    assert isinstance(sandbox, click.Group)
    assert sandbox.list_commands(click.Context(sandbox)) == list(COMMANDS["sandbox"])
