"""Studies of composites (cross-character augmentation, CCA, of Character Mixing)."""

from __future__ import annotations

from benchmarks.lora_cell import run
from benchmarks.studies.characters import RECIPE
from benchmarks.study import Study

_PASTED = RECIPE.but(
    # Two characters: with four, 400 steps show each pair of them too rarely.
    characters=("Mimi", "Rufus"),
    clips=24,
    episodes=1,
    shots=16,
    composites=96,
    kinds=("single", "multi"),
    repeats=2,
)
MET = ("multi-06", "multi-07", "multi-08", "multi-14", "multi-15", "multi-16")
"""Prompts of that study for both, without an interaction."""

CCA_RATIO = Study(
    name="cca-ratio",
    question="How many composites does it take, so that characters of two styles share a scene unchanged?",
    # One set of composites for all: the ratio says how often they are drawn (r / (1 + r) of the time).
    arms={f"{percent} %": _PASTED.but(ratio=percent / 100) for percent in (0, 5, 10, 20, 40, 100)},
    run=run,
    baseline="0 %",
    contrast=("40 %", "0 %"),
    repeated=("10 %",),
    metrics=(
        "inter-style identity",
        "inter-style motion",
        "inter-style style",
        "inter-style native",
        "inter-style foreign",
        "inter-style delusion",
        "inter-style scene_style",
        "inter-style interaction",
        "inter-style binding",
        "inter-style blending",
        "single identity",
        "single style",
        "single motion",
        "single binding",
    ),
    shown=MET,
)

_THREE = _PASTED.but(characters=("Mimi", "Rufus", "Otto"), kinds=("multi",), repeats=3)

CCA_SAME_STYLE = Study(
    name="cca-same-style",
    question="What do composites over styles do to two characters of one style from different shows?",
    # Otto and Rufus are of one style; nothing shows them together, and no composite does.
    arms={f"{percent} %": _THREE.but(ratio=percent / 100) for percent in (0, 5, 10, 20, 40)},
    run=run,
    baseline="0 %",
    contrast=("10 %", "0 %"),
    metrics=(
        "intra-style identity",
        "intra-style style",
        "intra-style motion",
        "intra-style interaction",
        "intra-style binding",
        "intra-style blending",
        "inter-style identity",
        "inter-style style",
        "inter-style blending",
    ),
)

_FOUR = RECIPE.but(clips=16, composites=128, kinds=("multi",), repeats=2)

CCA_FOUR = Study(
    name="cca-four",
    question="The same in a harder world: four characters, two of which look alike over the styles?",
    arms={f"{percent} %": _FOUR.but(ratio=percent / 100) for percent in (0, 5, 10, 40)},
    run=run,
    baseline="0 %",
    contrast=("40 %", "0 %"),
    metrics=(
        "inter-style identity",
        "inter-style native",
        "inter-style foreign",
        "inter-style delusion",
        "inter-style style",
        "inter-style blending",
        "intra-style identity",
        "intra-style blending",
    ),
    seeds=1,
)

_EDGES = _PASTED.but(ratio=0.4)

CCA_EDGES = Study(
    name="cca-edges",
    question="Does a model learn the edges of cut-outs, and does feathering help?",
    arms={
        "no composites": _EDGES.but(ratio=0.0),
        "soft edges": _EDGES,
        "hard edges": _EDGES.but(edge="hard"),
    },
    run=run,
    baseline="soft edges",
    contrast=("hard edges", "soft edges"),
    metrics=(
        "inter-style native edge",
        "inter-style foreign edge",
        "inter-style identity",
        "inter-style native",
        "inter-style foreign",
        "inter-style style",
    ),
    seeds=1,
)

CCA_MASKS = Study(
    name="cca-masks",
    question="Do composites cut out by SAM 2's masks teach as much as those cut out by the truth?",
    arms={"true masks": _EDGES, "masks of SAM 2": _EDGES.but(masks="sam2")},
    run=run,
    baseline="true masks",
    contrast=("masks of SAM 2", "true masks"),
    metrics=(
        "inter-style identity",
        "inter-style motion",
        "inter-style native",
        "inter-style foreign",
        "inter-style style",
        "inter-style binding",
        "single identity",
    ),
    seeds=1,
)
