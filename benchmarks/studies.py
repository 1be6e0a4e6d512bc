"""The studies. A new one is one entry of STUDIES; another kind of cell is a function like `lora_cell.run`."""

from __future__ import annotations

from benchmarks.lora_cell import Recipe, run
from benchmarks.study import Study

RECIPE = Recipe()
"""What all arms share unless they say otherwise: tuned once on the base model, before the studies."""

ATTENTION = ("attn1", "attn2")

SHOWN = ("multi-14", "multi-16", "multi-19", "multi-23", "multi-26", "multi-27")
"""Prompts for two characters of opposite styles."""

_IDENTITY = RECIPE.but(kinds=("single",), repeats=2, prose=16)
_TAGS = RECIPE.but(kinds=("multi",), repeats=2)
_ADAPTERS = RECIPE.but(kinds=("single", "multi"), prose=12)
_MIXING = RECIPE.but(kinds=("single", "multi"))
_PASTED = RECIPE.but(kinds=("multi",), repeats=2, composites=96)

IDENTITY = Study(
    name="identity",
    question="What does a LoRA teach, what is forgotten, and how many steps and clips does it take?",
    # Every number of steps is a run of its own to the end of its schedule, not a stop on the way.
    arms={
        "base": _IDENTITY.but(steps=0),
        "150 steps": _IDENTITY.but(steps=150),
        "400 steps": _IDENTITY,
        "800 steps": _IDENTITY.but(steps=800),
        "400 steps, 4 clips": _IDENTITY.but(clips=4),
        "400 steps, 16 clips": _IDENTITY.but(clips=16),
    },
    run=run,
    baseline="base",
    contrast=("400 steps", "base"),
    metrics=(
        "single identity",
        "single motion",
        "single style",
        "single binding",
        "prose identity",
        "prose motion",
        "prose binding",
    ),
)

CAPTION_TAGS = Study(
    name="caption-tags",
    question="Which tags must captions have, so that characters of several shows share a scene?",
    # Prose says what both tags say, in words that the base model knows: tags against information.
    arms={
        "no tags": _TAGS.but(captions="none"),
        "no scene-style": _TAGS.but(captions="no scene-style"),
        "no character": _TAGS.but(captions="no character"),
        "both": _TAGS,
        "prose": _TAGS.but(captions="prose"),
    },
    run=run,
    baseline="no tags",
    contrast=("both", "no tags"),
    metrics=(
        "multi identity",
        "multi style",
        "multi scene_style",
        "multi interaction",
        "multi motion",
        "multi binding",
    ),
)

ADAPTERS = Study(
    name="adapters",
    question="How large must the LoRA be, and does it need the feed-forward layers?",
    # At rank 48, attention alone has as many numbers as attention and feed-forward layers at rank 32.
    arms={
        "rank 4": _ADAPTERS.but(rank=4),
        "rank 16": _ADAPTERS.but(rank=16),
        "rank 32": _ADAPTERS,
        "rank 64": _ADAPTERS.but(rank=64),
        "attention only, rank 32": _ADAPTERS.but(targets=ATTENTION),
        "attention only, rank 48": _ADAPTERS.but(targets=ATTENTION, rank=48),
    },
    run=run,
    baseline="rank 32",
    contrast=("attention only, rank 32", "rank 32"),
    metrics=(
        "single identity",
        "single motion",
        "multi identity",
        "multi style",
        "multi interaction",
        "multi binding",
        "prose binding",
    ),
)

MIXING = Study(
    name="mixing",
    question="What goes wrong when characters of two styles share a scene, or two LoRAs are summed?",
    # A show's LoRA sees half the clips, so it takes half the steps.
    arms={
        "no composites": _MIXING.but(composites=0),
        "a LoRA a show, summed": _MIXING.but(composites=0, per_show=True, steps=RECIPE.training.steps // 2),
        "composites": _MIXING,
    },
    run=run,
    baseline="no composites",
    contrast=("a LoRA a show, summed", "no composites"),
    metrics=(
        "single identity",
        "intra-style identity",
        "inter-style identity",
        "inter-style native",
        "inter-style foreign",
        "inter-style delusion",
        "intra-style blending",
        "inter-style blending",
    ),
    shown=SHOWN,
)

CCA_RATIO = Study(
    name="cca-ratio",
    question="How many composites does it take, so that characters of two styles share a scene unchanged?",
    # One set of composites for all: the ratio says how often they are drawn (r / (1 + r) of the time).
    arms={
        **{f"{percent} %": _PASTED.but(ratio=percent / 100) for percent in (0, 5, 10, 20, 40, 100)},
        "0 %, 800 steps": _PASTED.but(ratio=0.0, steps=800),
        "100 %, 800 steps": _PASTED.but(ratio=1.0, steps=800),
    },
    run=run,
    baseline="0 %",
    contrast=("40 %", "0 %"),
    repeated=("10 %", "100 %, 800 steps"),
    metrics=(
        "inter-style identity",
        "inter-style motion",
        "inter-style style",
        "inter-style native",
        "inter-style foreign",
        "inter-style scene_style",
        "inter-style interaction",
        "inter-style binding",
        "intra-style identity",
        "intra-style style",
        "intra-style scene_style",
        "intra-style interaction",
        "intra-style binding",
    ),
    shown=SHOWN,
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
        "intra-style identity",
    ),
    seeds=1,
)

STUDIES: dict[str, Study] = {
    study.name: study for study in (IDENTITY, CAPTION_TAGS, ADAPTERS, MIXING, CCA_RATIO, CCA_EDGES, CCA_MASKS)
}
