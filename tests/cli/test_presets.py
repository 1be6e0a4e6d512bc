from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import toolkit
from toolkit.cli.click_app import COMMANDS, find_verb
from toolkit.cli.presets import preset_names, read_preset
from toolkit.cli.synonyms import RENAMED
from toolkit.core.errors import CastmixError

OLD_RUN = Path(__file__).parents[1] / "data" / "run_of_0_1_0" / "run" / "run.yaml"


@dataclass(frozen=True)
class Optim:
    """The optimiser.

    Attributes:
        lr: Learning rate.
        betas: Of Adam.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)


def learn(data: list[Path], out: Path, *, steps: int = 100, optim: Optim = Optim(), note: str = "") -> None:
    """Learn."""


@dataclass(frozen=True)
class Sigma:
    """Noise levels.

    Attributes:
        mean: Of the normal.
        shift: Towards noise.
    """

    mean: float = 0.0
    shift: float | None = None


@dataclass(frozen=True)
class Objective:
    """What is learned.

    Attributes:
        name: Which.
        sigma: Noise levels.
        tokens: A file.
    """

    name: Literal["velocity", "motion"] = "velocity"
    sigma: Sigma = Sigma()
    tokens: Path | None = None


def train(
    data: list[Path],
    out: Path,
    *,
    steps: int = 100,
    objective: Objective = Objective(),
    optim: Optim = Optim(),
) -> None:
    """Train."""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_values_are_checked_and_converted(tmp_path: Path) -> None:
    preset = written(tmp_path, "data: [a, b]\noptim: {lr: 1e-4, betas: [0.9, 1]}\nsteps: 1e3\n")
    assert read_preset(preset, "learn", learn) == {
        "data": [Path("a"), Path("b")],
        "optim.lr": 1e-4,
        "optim.betas": (0.9, 1.0),
        "steps": 1000,
    }
    assert read_preset(written(tmp_path, ""), "learn", learn) == {}


def test_all_problems_at_once_each_with_the_nearest_name(tmp_path: Path) -> None:
    preset = written(tmp_path, "stps: 3\noptim: {lrr: 1, lr: fast}\nnote: 7\n")
    with pytest.raises(CastmixError) as caught:
        read_preset(preset, "learn", learn)
    assert str(caught.value) == (
        f"{preset}: stps: no such setting, did you mean steps?; "
        "optim.lrr: no such setting, did you mean optim.lr?; "
        "optim.lr: expected a number, got 'fast'; note: expected text, got 7"
    )


MOTION = {"objective.name": "motion", "objective.sigma.shift": 3.0}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("objective: {name: motion, sigma: {shift: 3}}", MOTION),
        ("objective: motion\nsigma: {shift: 3}", MOTION),
        ("shift: null\nlr: 1e-3", {"objective.sigma.shift": None, "optim.lr": 1e-3}),
        ("sigma.shift: 3", {"objective.sigma.shift": 3.0}),
        ("objective: {sigma.shift: 3}", {"objective.sigma.shift": 3.0}),
        ("tokens: a.safetensors", {"objective.tokens": Path("a.safetensors")}),
        ("verb: train\narguments: {objective: velocity, sigma: {mean: 1}}",
         {"objective.name": "velocity", "objective.sigma.mean": 1.0}),
    ],
)  # fmt: skip
def test_short_and_partly_nested_names(tmp_path: Path, text: str, values: dict[str, object]) -> None:
    assert read_preset(written(tmp_path, text), "train", train) == values


def test_the_same_setting_twice_is_an_error(tmp_path: Path) -> None:
    preset = written(tmp_path, "optim: {lr: 1}\nlr: 2")
    with pytest.raises(CastmixError, match=r"lr: sets optim\.lr a second time"):
        read_preset(preset, "train", train)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_run_of_a_renamed_command_is_read(tmp_path: Path, old: str, new: str) -> None:
    preset = written(tmp_path, f"verb: {old}\narguments: {{seed: 3}}")
    assert read_preset(preset, new, find_verb(str(COMMANDS[new]))) == {"seed": 3}


def test_a_run_of_an_older_version_is_read() -> None:
    values = read_preset(str(OLD_RUN), "train", find_verb(str(COMMANDS["train"])))
    expected = {
        "data": [Path("data")],
        "out": Path("run"),
        "preserve_share": 0.2,
        "shift": None,
        "omega": 0.5,
    }
    found = {name.rpartition(".")[2]: value for name, value in values.items()}
    assert found | expected == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: 3", "optim: is a group of settings: optim.lr, optim.betas"),
        ("- a\n- b", "must hold settings as `name: value`"),
        ("a: [1", "is not YAML"),
        ("verb: train\narguments: {steps: 3}", "is a run of `castmix train`, not of `castmix learn`"),
        ("verb: learn\narguments: 3", "must hold settings"),
    ],
)
def test_a_malformed_preset_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        read_preset(written(tmp_path, text), "learn", learn)


def test_an_unknown_preset_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="no preset 'fsat' for train"):
        read_preset("fsat", "train", learn)
    with pytest.raises(CastmixError, match="no preset file"):
        read_preset(str(tmp_path / "absent.yaml"), "train", learn)


def test_presets_that_come_along_fit_their_verbs_and_hold_no_defaults() -> None:
    from toolkit.cli.signatures import settings

    folder = Path(toolkit.__file__).parents[1] / "presets"
    files = sorted(path for path in folder.glob("*/*.yaml") if path.parent.name != "prompts")
    assert files, "presets/ is empty"
    for path in files:
        verb_name = path.parent.name
        assert verb_name in COMMANDS, f"{path}: no such verb"
        assert path.stem in preset_names(verb_name)
        verb = find_verb(str(COMMANDS[verb_name]))
        values = read_preset(path.stem, verb_name, verb)
        defaults = settings(verb)
        idle = [name for name, value in values.items() if value == defaults[name].default]
        assert not idle, f"{path} repeats defaults: {idle}"
