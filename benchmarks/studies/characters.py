"""Studies of one LoRA for several characters."""

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

PRESERVE = Study(
    name="preserve",
    question="What does a share of other clips in the batch keep, and what does it cost the characters?",
    # A share s of the batch is VideoMage's lambda_1 = s / (1 - s).
    arms={
        "lambda 0": _IDENTITY.but(preserve_share=0.0),
        "lambda 0.25": _IDENTITY.but(preserve_share=0.2),
        "lambda 1": _IDENTITY.but(preserve_share=0.5),
    },
    run=run,
    baseline="lambda 0",
    contrast=("lambda 0.25", "lambda 0"),
    metrics=(
        "single identity",
        "single motion",
        "single binding",
        "prose identity",
        "prose motion",
        "prose binding",
    ),
    seeds=1,
)
