"""How hard an outline is: a cut, a soft edge, and whose outline counts."""

from __future__ import annotations

import numpy as np
import pytest
from creatures import named, verdict

from benchmarks.edges import edges, hardness
from toolkit.captions.cast import read_cast
from toolkit.sandbox.prompt_score import parse_prompt


@pytest.mark.parametrize(
    ("across", "hard"),
    [
        ([50, 50, 50, 200, 200, 200], 1.0),
        ([50, 50, 80, 170, 200, 200], 90 / 150),
        ([200, 200, 180, 80, 50, 50], 100 / 150),
    ],
)
def test_hardness_is_one_for_a_step_and_lower_for_a_soft_edge(across: list[int], hard: float) -> None:
    picture = np.tile(np.array(across, float), (6, 1))
    assert hardness(picture) == pytest.approx(hard)
    assert hardness(picture.T) == pytest.approx(hard)
    assert len(hardness(picture / 8)) == 0  # steps too small for an outline


def test_edges_are_measured_of_requested_and_recognised_characters() -> None:
    frames = np.full((17, 64, 96, 3), 50, np.uint8)
    frames[:, 12:28, 12:28] = 220  # inside the creatures' box
    frames[:, 40:60:2] = 220  # hard lines elsewhere
    prompt = parse_prompt(
        "[Character: Mimi], jumps. [Character: Otto], walks. [scene-style:cartoon]", read_cast()
    )
    both = verdict(named("Mimi", "jumps"), named("Otto", "walks"))
    assert edges(frames, both, prompt) == {"native edge": 1.0, "foreign edge": 1.0}
    assert edges(frames, verdict(named("Otto", "walks")), prompt) == {
        "native edge": None,
        "foreign edge": 1.0,
    }
    assert edges(frames // 16, both, prompt) == {"native edge": None, "foreign edge": None}
