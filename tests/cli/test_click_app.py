from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner, Result

from toolkit import __version__
from toolkit.cli import click_app as cli
from toolkit.cli.click_app import COMMANDS, Verbs, castmix
from toolkit.core.errors import CastmixError


@dataclass(frozen=True)
class Optim:
    """The optimiser.

    Attributes:
        lr: Learning rate.
        warmup: Steps of warm-up.
        fused: In one kernel.
    """

    lr: float = 1e-4
    warmup: int = 10
    fused: bool = False


@dataclass(frozen=True)
class Sigma:
    """Noise levels.

    Attributes:
        shift: Towards noise.
        spatial: In space.
    """

    shift: float = 1.0
    spatial: bool = True


@dataclass(frozen=True)
class Objective:
    """What is learned: one of two.

    Attributes:
        name: Which.
        sigma: Noise levels.
        weight: Of it.
    """

    name: Literal["velocity", "motion"] = "velocity"
    sigma: Sigma = Sigma()
    weight: float = 1.0


@dataclass(frozen=True)
class Textual:
    """Words.

    Attributes:
        lr: Learning rate.
        steps: How many.
    """

    lr: float = 1e-2
    steps: int = 5


called: list[dict[str, Any]] = []


def learn(
    data: list[Path],
    out: Path,
    *,
    steps: int = 100,
    crop: tuple[int, int, int, int] = (0, 0, 0, 0),
    prompts: list[str] | None = None,
    kind: Literal["subject", "motion"] = "subject",
    guidance_scale: float | None = None,
    keep: bool = True,
    optim: Optim = Optim(),
) -> Path:
    """Learn from clips.

    Args:
        data: Folders of clips.
        out: Where the result goes.
        steps: How many.
        crop: Source pixels.
        prompts: To sample.
        kind: What is learned.
        guidance_scale: Strength.
        keep: Keep the cache.
    """
    called.append(locals() | {})
    return out / "lora.safetensors"


def nest(
    out: Path,
    *,
    steps: int = 3,
    grad_clip: float = 1.0,
    objective: Objective = Objective(),
    optim: Optim = Optim(),
    textual: Textual = Textual(),
) -> None:
    """Learn in groups inside groups.

    Args:
        out: Where the result goes.
        steps: How many.
        grad_clip: Largest norm.
    """
    called.append(locals() | {})


def show(out: Path, *, error: str = "") -> list[Path]:
    """Show it.

    Args:
        out: Where the page goes.
        error: To raise.
    """
    if error == "ctrl-c":
        raise KeyboardInterrupt
    if error == "bug":
        raise RuntimeError("a bug")
    raise CastmixError(f"{out}: {error}")


@pytest.fixture
def castmix_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a castmix whose verbs are those of this file: `castmix_with("learn", "a")`."""
    called.clear()
    monkeypatch.setattr(cli, "find_verb", lambda target: globals()[target])
    app = castmix({"learn": "learn", "show": "show", "nest": "nest"})
    return lambda *words: CliRunner().invoke(app, list(words), prog_name="castmix")


def test_flags_reach_the_verb_in_its_own_types(castmix_with: Callable[..., Result]) -> None:
    result = castmix_with(
        *(
            "learn",
            "a",
            "b",
            "--out",
            "o",
            "--steps",
            "5",
            "--crop",
            "1,2,3,4",
            "--prompts",
            "x",
            "--prompts",
            "y",
        ),
        *("--kind", "motion", "--guidance-scale", "2", "--no-keep", "--optim.lr", "2e-4", "--optim.fused"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == str(Path("o/lora.safetensors")) + "\n"
    assert called == [
        {
            "data": [Path("a"), Path("b")],
            "out": Path("o"),
            "steps": 5,
            "crop": (1, 2, 3, 4),
            "prompts": ["x", "y"],
            "kind": "motion",
            "guidance_scale": 2.0,
            "keep": False,
            "optim": Optim(lr=2e-4, fused=True),
        }
    ]


@pytest.mark.parametrize(("word", "on"), [("checkpointing", True), ("no-checkpointing", False), ("", None)])
def test_an_optional_switch_is_on_off_or_not_given(word: str, on: bool | None) -> None:
    command = castmix().get_command(click.Context(castmix()), "generate")
    assert command is not None
    flags = [f"--collaboration.{word}"] if word else []
    given = command.make_context("generate", ["a", "--out", "b", *flags])
    assert given.params["collaboration__checkpointing"] is on


def test_omitted_options_keep_their_defaults(castmix_with: Callable[..., Result]) -> None:
    assert castmix_with("learn", "a", "--out", "o").exit_code == 0
    assert called[0]["optim"] == Optim()
    assert called[0]["prompts"] is None
    assert called[0]["keep"] is True


def test_flags_win_over_the_preset_which_may_hold_everything(
    castmix_with: Callable[..., Result], tmp_path: Path
) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("data: [a]\nout: o\nsteps: 7\noptim: {lr: 1e-3, warmup: 3}\nkeep: false\n")
    result = castmix_with("learn", "--preset", str(preset), "--optim.lr", "2e-3")
    assert result.exit_code == 0, result.output
    assert called[0]["data"] == [Path("a")]
    assert called[0]["steps"] == 7
    assert called[0]["optim"] == Optim(lr=2e-3, warmup=3)
    assert called[0]["keep"] is False


@pytest.mark.parametrize(
    "words",
    [
        "--objective.name motion --objective.sigma.shift 5 --objective.sigma.no-spatial",
        "--objective motion --shift 5 --no-spatial",
        "--objective=motion --sigma.shift=5 --sigma.no-spatial",
    ],
)
def test_short_names_reach_the_same_setting(castmix_with: Callable[..., Result], words: str) -> None:
    result = castmix_with("nest", "--out", "o", *words.split())
    assert result.exit_code == 0, result.output
    assert called[0]["objective"] == Objective("motion", Sigma(shift=5, spatial=False))
    assert called[0]["optim"] == Optim()


def test_an_underscore_is_a_dash(castmix_with: Callable[..., Result]) -> None:
    assert castmix_with("nest", "--out", "o", "--grad_clip", "2").exit_code == 0
    assert called[0]["grad_clip"] == 2


def test_a_flag_wins_over_a_preset_that_spells_it_otherwise(
    castmix_with: Callable[..., Result], tmp_path: Path
) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("objective: motion\nsigma: {shift: 3}\nwarmup: 4\n")
    result = castmix_with("nest", "--out", "o", "--preset", str(preset), "--shift", "7", "--optim.lr", "1")
    assert result.exit_code == 0, result.output
    assert called[0]["objective"] == Objective("motion", Sigma(shift=7))
    assert called[0]["optim"] == Optim(lr=1, warmup=4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 1", "--lr: stands for several settings, write one of --optim.lr, --textual.lr"),
        ("--optim 1", "--optim: is a group of settings: --optim.lr, --optim.warmup, --optim.fused"),
        ("--shfit 1", "--shfit: no such setting, did you mean --objective.sigma.shift?"),
        ("--no-spatail", "--no-spatail: no such setting, did you mean --objective.sigma.spatial?"),
    ],
)
def test_unknown_and_ambiguous_names_are_errors(
    castmix_with: Callable[..., Result], words: str, message: str
) -> None:
    result = castmix_with("nest", "--out", "o", *words.split())
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert called == []


def test_help_has_a_heading_for_each_group_and_full_names_only(castmix_with: Callable[..., Result]) -> None:
    text = castmix_with("nest", "--help").stdout
    headings = ["What is learned: one of two:", "Noise levels:", "The optimiser:", "Words:"]
    assert [text.count(f"\n{heading}\n") for heading in headings] == [1, 1, 1, 1]
    assert "--objective.sigma.spatial / --objective.sigma.no-spatial" in text
    assert "--shift" not in text
    learned, _, noise = text[text.index(headings[0]) : text.index(headings[2])].partition(headings[1])
    assert "--objective.weight" in learned  # after the inner group in the class, but under its own heading
    assert "--objective.sigma.shift" in noise


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learn", "a"], "Missing --out: a path."),
        (["learn", "--out", "o"], "Missing DATA: a list (each a path)."),
        (["learn", "a", "--out", "o", "--step", "3"], "--step: no such setting, did you mean --steps?"),
        (["learn", "a", "--out", "o", "--steps", "many"], "expected a whole number, got 'many'"),
        (["learn", "a", "--out", "o", "--kind", "both"], "expected one of subject, motion, got 'both'"),
        (["learn", "a", "--out", "o", "--crop", "1,2"], "expected 4 values (each a whole number), got '1,2'"),
        (["lern"], "Did you mean 'learn'?"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_write(
    castmix_with: Callable[..., Result], words: list[str], message: str
) -> None:
    result = castmix_with(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert called == []


def test_bad_input_is_one_line_and_exit_1(castmix_with: Callable[..., Result]) -> None:
    result = castmix_with("show", "--out", "o", "--error", "num_frames must be 4k+1")
    assert (result.exit_code, result.stderr) == (1, "castmix: o: num_frames must be 4k+1\n")


def test_ctrl_c_says_how_to_go_on(castmix_with: Callable[..., Result]) -> None:
    result = castmix_with("show", "--out", "o", "--error", "ctrl-c")
    assert result.exit_code == 130
    assert result.stderr == "castmix: interrupted; run the same command again to go on\n"


def test_a_bug_keeps_its_traceback(castmix_with: Callable[..., Result]) -> None:
    assert isinstance(castmix_with("show", "--out", "o", "--error", "bug").exception, RuntimeError)


def test_help_says_what_the_docstring_says(castmix_with: Callable[..., Result]) -> None:
    text = castmix_with("learn", "--help").stdout
    assert "castmix learn [OPTIONS] DATA..." in text
    for part in (
        "Learn from clips.",
        "DATA...  Folders of clips.",
        "--out PATH",
        "Where the result goes. [required]",
        "--steps N",
        "How many. [default: 100]",
        "--crop N,N,N,N",
        "--kind subject|motion",
        "--keep / --no-keep",
        "--optim.fused / --optim.no-fused",
        "The optimiser:\n  --optim.lr X",
        "Learning rate. [default: 0.0001]",
        "--preset NAME|FILE",
    ):
        assert part in text


def test_version() -> None:
    assert CliRunner().invoke(castmix(), ["--version"]).stdout == f"castmix {__version__}\n"


def test_help_lists_the_verbs_in_the_order_of_the_pipeline() -> None:
    result = CliRunner().invoke(castmix(), ["--help"])
    assert result.exit_code == 0, result.output
    places = [result.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


def documented() -> Iterator[tuple[str, list[str]]]:
    """Every castmix command line that is written in README and docs/, by file."""
    root = Path(cli.__file__).parents[2]
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = path.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ {4}(?:\w+=\S+ )*castmix (.*)", text, flags=re.MULTILINE):
            yield path.name, shlex.split(line, comments=True)


def test_commands_in_the_docs_are_commands() -> None:
    lines = list(documented())
    assert lines
    for name, words in lines:
        command: click.Command = castmix()
        while isinstance(command, Verbs):
            command = command.get_command(click.Context(command), words.pop(0)) or command
        try:
            command.make_context(name, words)
        except click.UsageError as error:
            pytest.fail(f"{name}: castmix {command.name} {' '.join(words)}: {error.format_message()}")
