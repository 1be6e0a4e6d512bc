from __future__ import annotations

import pytest

from toolkit.cli.names import SettingNameError, resolve, spellings, with_group_names

KNOWN = [
    "steps",
    "objective.name",
    "objective.sigma.shift",
    "objective.sigma.mean",
    "objective.motion.tokens",
    "batches.tokens",
    "batches.size",
    "optim.name",
    "optim.lr",
    "textual.name",
    "textual.lr",
    "textual.steps",
]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("objective.sigma.shift", "objective.sigma.shift"),
        ("sigma.shift", "objective.sigma.shift"),
        ("shift", "objective.sigma.shift"),
        ("steps", "steps"),  # a full name wins
        ("tokens", "batches.tokens"),  # fewer groups win
        ("motion.tokens", "objective.motion.tokens"),
        ("objective", "objective.name"),
        ("optim", "optim.name"),
    ],
)
def test_a_short_name_finds_its_setting(given: str, full: str) -> None:
    assert resolve(given, KNOWN) == full


def test_dash_and_underscore_are_equal() -> None:
    assert resolve("grad-clip", ["optim.grad_clip"]) == resolve("grad_clip", ["optim.grad_clip"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lr", "stands for several settings, write one of optim.lr, textual.lr"),
        ("name", "stands for several settings, write one of objective.name, optim.name, textual.name"),
        ("sigma", "is a group of settings: objective.sigma.shift, objective.sigma.mean"),
        ("stps", "no such setting, did you mean steps?"),
        ("shfit", "no such setting, did you mean objective.sigma.shift?"),
        ("igma.shift", "no such setting, did you mean objective.sigma.shift?"),  # only whole words count
    ],
)
def test_a_name_that_finds_none_or_several(given: str, message: str) -> None:
    with pytest.raises(SettingNameError) as caught:
        resolve(given, KNOWN)
    assert str(caught.value) == message


def test_an_error_writes_names_as_asked() -> None:
    with pytest.raises(SettingNameError) as caught:
        resolve("lr", KNOWN)
    assert caught.value.message(str.upper).endswith("one of OPTIM.LR, TEXTUAL.LR")


def test_a_group_goes_by_its_name_field_only_if_that_opens_it() -> None:
    assert "group" in with_group_names(["group.name", "group.size"])
    assert "group" not in with_group_names(["group.size", "group.name"])
    assert "group" not in with_group_names(["group.inner.size", "group.name"])


def test_spellings_are_what_resolves() -> None:
    found = spellings(KNOWN)
    assert {name: found[name] for name in KNOWN} == {name: name for name in KNOWN}
    assert found["sigma.shift"] == found["shift"] == "objective.sigma.shift"
    assert found["objective"] == "objective.name"
    assert not {"lr", "name", "sigma"} & found.keys()
    assert all(resolve(short, KNOWN) == full for short, full in found.items())
