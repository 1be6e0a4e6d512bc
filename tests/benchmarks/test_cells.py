"""What the cells of motion, fusion and collaboration ask, and how they judge what is drawn by code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fusion_cell, motion_cell, scs_cell
from benchmarks.motion_cell import Imitation
from benchmarks.motion_clips import TRAITS, perform, questions
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import parse, validate
from toolkit.footage.video import write_video
from toolkit.sandbox.prompt_score import parse_prompt
from toolkit.sandbox.world import world
from toolkit.sandbox.world.actions import BASE_ACTIONS, EXTRA_ACTIONS
from toolkit.sandbox.world.shows import named_looks
from toolkit.sandbox.world.world import Actor, Look

CAST = read_cast()


def film(path: Path, looks: list[Look], motion: str, style: str, scene: str) -> Path:
    places = np.linspace(0, 1.5, len(looks) + 2)[1:-1]
    actors = [Actor(look, motion, style, float(x)) for look, x in zip(looks, places, strict=True)]
    write_video(path, world.draw(actors, scene, style)[0], world.FPS)
    return path


@pytest.mark.parametrize("motion", Imitation().motions)
def test_motion_prompts_ask_other_characters_in_other_scenes(motion: str) -> None:
    assert motion in EXTRA_ACTIONS
    shown = perform(motion)
    assert shown == perform(motion)
    prompts = questions(shown, 8, 4)
    assert len({prompt.id for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == 12
    for prompt in prompts:
        wanted = parse_prompt(prompt.prompt, CAST)
        (part,) = wanted.creatures
        assert wanted.scene != shown.scene
        assert all(part.look.get(name) != getattr(shown.look, name) for name in TRAITS[:-1])
        assert (part.action == motion) == (prompt.kind == "asked")
        assert prompt.kind == "asked" or part.action in BASE_ACTIONS
    assert {parse_prompt(prompt.prompt, CAST).scene_style for prompt in prompts} == set(world.STYLES)
    assert "{" not in shown.caption + str(shown.appearance["look"])


def test_a_transferred_motion_is_told_from_a_copied_appearance(tmp_path: Path) -> None:
    shown = perform("drops from above")
    (prompt,) = questions(shown, 1, 0)
    wanted = parse_prompt(prompt.prompt, CAST)
    said = {"pattern": "plain", "accessory": "none"} | dict(wanted.creatures[0].look)
    right = film(tmp_path / "a.mp4", [Look(**said)], shown.motion, wanted.scene_style, wanted.scene)
    copied = film(tmp_path / "b.mp4", [shown.look], shown.motion, shown.style, shown.scene)
    idle = film(tmp_path / "c.mp4", [Look(**said)], "stands still", wanted.scene_style, wanted.scene)
    again = [prompt.__class__(f"{k}", prompt.prompt, prompt.kind) for k in "abc"]
    scores = motion_cell.judge([right, copied, idle], again, shown)
    assert scores["motion"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert scores["carried"] == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert scores["identity"] == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert scores["leakage"] == {"a": 0.0, "b": 1.0, "c": 0.0}


@pytest.mark.parametrize(
    ("team", "kind"),
    [
        (("Mimi", "Bruno"), "same-show"),
        (("Mimi", "Luma"), "same-style"),
        (("Mimi", "Otto"), "cross-style"),
        (("Mimi", "Bruno", "Otto"), "three"),
    ],
)
def test_a_fusion_is_asked_for_each_character_and_for_groups(team: tuple[str, ...], kind: str) -> None:
    prompts = fusion_cell.questions(team, 4, 12)
    assert [prompt.kind for prompt in prompts].count("single") == 4 * len(team)
    assert {prompt.kind for prompt in prompts} == {"single", kind}
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert validate(prompt.prompt, CAST) == []
        names = [clause.name for clause in parse(prompt.prompt, CAST).clauses]
        assert len(names) == 1 if prompt.kind == "single" else {*names} == {*team}
    both = [prompt.prompt for prompt in prompts if prompt.kind != "single"]
    assert len({text.partition("]")[0] for text in both}) == len(team)  # each comes first


def test_collaborative_sampling_is_scored_on_character_and_motion(tmp_path: Path) -> None:
    motion = "leans back"
    shown, looks = perform(motion), named_looks()
    prompts = scs_cell.questions(motion, ("Mimi",), shown.scene, 2)
    assert all(parse_prompt(prompt.prompt, CAST).scene not in ("", shown.scene) for prompt in prompts)
    wanted = parse_prompt(prompts[0].prompt, CAST)
    one = film(tmp_path / "a.mp4", [looks["Mimi"]], motion, "cartoon", wanted.scene)
    other = film(tmp_path / "b.mp4", [shown.look], motion, shown.style, shown.scene)
    scores = scs_cell.judge([one, other], [prompts[0], prompts[1]], shown)
    first, second = (prompt.id for prompt in prompts)
    assert scores["one motion"] == {first: 1.0, second: 0.0}
    assert scores["one identity"] == {first: 1.0, second: 0.0}
    assert scores["one carried"] == {first: 1.0, second: 1.0}
    assert scores["one leakage"][first] == 0
    assert scores["one leakage"][second] > 0.5
