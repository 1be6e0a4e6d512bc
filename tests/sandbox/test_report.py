"""The sandbox's report: what it asks, what it counts as right, and its one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from creatures import seen, verdict
from PIL import Image

from toolkit.cli.click_app import main
from toolkit.core.errors import CastmixError
from toolkit.sandbox.base_model import report
from toolkit.sandbox.recogniser.verdict import Creature
from toolkit.sandbox.world import population, world
from toolkit.sandbox.world.shows import named_looks

RED = world.Actor(world.Look("ball", "red"), "jumps", "cartoon", 0.4)
BLUE = world.Actor(world.Look("box", "blue", "plain", "hat"), "walks", "cartoon", 1.0)
ASKED = population.Scenario((RED,), "meadow", "cartoon", "")


def test_prompts_ask_for_looks_that_pretraining_never_drew() -> None:
    seen = set(population.generic_looks(list(named_looks().values())))
    for creatures in (1, 2):
        rows = report.sample_prompts(20, creatures, 3)
        assert len({text for text, _ in rows}) > 15
        for text, truth in rows:
            assert len(truth.actors) == creatures
            assert not {actor.look for actor in truth.actors} & seen
            assert all(actor.look.colour in text and actor.action in text for actor in truth.actors)
    triples = {(look.body, look.colour, look.accessory) for look in seen}
    for _, truth in report.sample_prompts(20, 2, 3, unseen=True):
        looks = [actor.look for actor in truth.actors]
        assert not {(look.body, look.colour, look.accessory) for look in looks} & triples
        assert not {look.identifying_pairs for look in looks} & {
            look.identifying_pairs for look in named_looks().values()
        }
    assert report.sample_prompts(5, 1, 3) == report.sample_prompts(5, 1, 3)
    assert report.sample_prompts(5, 1, 3) != report.sample_prompts(5, 1, 4)


def test_an_attribute_is_right_if_it_was_requested() -> None:
    right = report.attribute_shares([verdict(seen("ball", action="jumps"))], [ASKED])
    assert set(right.values()) == {1.0}
    wrong = verdict(seen("ball", "blue", action="ducks"), scene_style="realistic")
    found = report.attribute_shares([wrong, verdict()], [ASKED, ASKED])
    assert found["body"] == 0.5
    assert found["scene"] == 1.0
    assert found["style"] == 0.5
    assert found["colour"] == found["action"] == 0.0


def test_binding_needs_exactly_the_requested_creatures() -> None:
    red, blue = seen("ball", action="jumps"), seen("box", "blue", accessory="hat", action="walks")

    def binding(*creatures: Creature) -> dict[str, bool]:
        return report.check_binding(verdict(*creatures), (RED, BLUE))

    assert all(binding(red, blue).values())
    assert not any(binding(blue, red).values())
    assert not any(binding(red).values())
    assert not any(binding(red, blue, red).values())
    other = binding(red, seen("box", "blue", accessory="hat", action="jumps"))
    assert other == {"binding": True, "binding_with_pattern": True, "binding_with_action": False}


def test_the_command_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["castmix", "sandbox", "report", "--samples", "4", "--seed", "2", "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    row = json.loads(capsys.readouterr().out)
    for name in ("colour", "action", "style", "accessory", "body", "binding"):
        assert 0 <= row[name] <= 1
    assert row["vae_psnr"] > 20
    assert row["first_frame_psnr"] > 20
    assert row["seconds_per_clip"] > 0
    assert {"truth", "reconstructions"} == set(row["recognisers"]["who"])


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(CastmixError, match="samples is 3"):
        report.measure(3)


def test_a_verdict_is_described_like_a_prompt() -> None:
    ball, box = seen("ball", action="jumps"), seen("box", "blue", accessory="hat", action="walks")
    told = report.describe_verdict(verdict(ball, box))
    assert told == "a red ball jumps and a blue box with a hat walks in the meadow, cartoon style"
    assert report.describe_verdict(verdict()) == "nobody"


def test_the_sheet_shows_every_clip_above_its_lines(tmp_path: Path) -> None:
    clips = [np.full((17, 8, 12, 3), value, np.uint8) for value in (10, 20, 30)]
    report.contact_sheet(clips, [("asked", "seen")] * 3, tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    height, width = picture.shape[0] // 2, picture.shape[1]
    corners = [picture[2, 2, 0], picture[2, width - 3, 0], picture[height + 2, 2, 0]]
    assert corners == [10, 20, 30]
    assert (picture[17:height] < 100).any()  # letters
