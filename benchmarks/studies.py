"""The studies. A new one is one entry of STUDIES; another kind of cell is a function like `lora_cell.run`."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import fusion_cell, motion_cell, scs_cell
from benchmarks.fusion_cell import Fusing
from benchmarks.lora_cell import Recipe, run
from benchmarks.motion_cell import Imitation, Spoken
from benchmarks.scs_cell import Meeting
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

ALL_LAYERS = ("attn1", "attn2", "ffn")
_MOTION = Imitation(targets=ALL_LAYERS, lr=4e-3)

MOTION = Study(
    name="motion",
    question="What carries a motion from one clip to others, and what brings the clip's looks along?",
    arms={
        "base": replace(_MOTION, steps=0),
        "plain LoRA": replace(_MOTION, omega=0.0),
        "omega 0.1": replace(_MOTION, omega=0.1),
        "omega 0.5": _MOTION,
        "omega 1": replace(_MOTION, omega=1.0),
        "debiased": replace(_MOTION, omega=0.0, debiased=1.0),
        "omega 0.5, debiased": replace(_MOTION, debiased=1.0),
        "omega 0.5, adjacent": replace(_MOTION, adjacent=0.1),
        "omega 0.5, motion-qk": replace(_MOTION, targets=("motion-qk",)),
        "omega 0.5, motion-vo": replace(_MOTION, targets=("motion-vo",)),
        "omega 0.5, temporal heads": replace(_MOTION, targets=("attn1",), heads="temporal"),
        "omega 0.5, kept": replace(_MOTION, preserve_share=0.25),
        "static video of": replace(_MOTION, appearance="A static video of {subjects}."),
        "video of": replace(_MOTION, appearance="A video of {subjects}."),
        "all said": replace(_MOTION, appearance="{look} stands still {place}"),
    },
    run=motion_cell.run,
    baseline="plain LoRA",
    contrast=("omega 0.5", "plain LoRA"),
    repeated=("debiased",),
    metrics=("motion", "carried", "identity", "leakage", "known motion"),
    shown=tuple(
        f"{motion}-asked-{k:02d}"
        for motion in ("leans-back", "drops-from-above", "trembles-and-jumps")
        for k in (1, 2)
    ),
    pictured=("base", "plain LoRA", "omega 0.5", "debiased", "omega 0.5, motion-qk", "omega 0.5, kept"),
)

# A verb carries part of the motion, so the LoRA can be gentle. Rate chosen by hand on two motions, seed 0.
_SPOKEN = Spoken(targets=("attn1",), lr=5e-4, omega=0.0)
_WORDS = replace(_MOTION, targets=("attn1",), lr=5e-4, omega=0.0)

MOTION_VERB = Study(
    name="motion-verb",
    question="What does a verb that is learned first, as a token, add to a LoRA of one clip's motion?",
    arms={
        "words, attn1": _WORDS,
        "verb, attn1": _SPOKEN,
        "verb alone": replace(_SPOKEN, steps=0),
        "verb, motion-qk 4e-3": replace(_SPOKEN, targets=("motion-qk",), lr=4e-3),
        "verb, attn1, omega 0.5": replace(_SPOKEN, omega=0.5),
    },
    run=motion_cell.run,
    baseline="words, attn1",
    contrast=("verb, attn1", "words, attn1"),
    metrics=MOTION.metrics,
    shown=MOTION.shown,
)

_FUSION = Fusing()

FUSION = Study(
    name="fusion",
    question="How can LoRAs of one character each be made one, so that both are there and neither blends?",
    arms={
        "alone": replace(_FUSION, method="alone"),
        # The ceiling: what a LoRA knows of its character beside somebody else, with nothing fused.
        "alone, in company": replace(_FUSION, method="company"),
        "trained jointly": replace(_FUSION, method="joint"),
        "weighted 1": _FUSION,
        "weighted 0.7": replace(_FUSION, weight=0.7),
        "svd": replace(_FUSION, method="svd"),
        "ties": replace(_FUSION, method="ties"),
        "dare": replace(_FUSION, method="dare"),
        "least-squares": replace(_FUSION, method="least-squares"),
        "gradient": replace(_FUSION, method="gradient"),
        "gradient, lambda 0": replace(_FUSION, method="gradient", attention=0.0),
        "gradient, lambda 0.1": replace(_FUSION, method="gradient", attention=0.1),
        "gradient, lambda 1": replace(_FUSION, method="gradient", attention=1.0),
        # At 3e-4 a larger lambda is no stronger teaching of maps, but a less stable one.
        "gradient, lr 1e-4": replace(_FUSION, method="gradient", lr=1e-4),
        "masked": replace(_FUSION, method="masked"),
        "masked, base layout": replace(_FUSION, method="masked", layout="base", sigma=0.7),
        "prose, no LoRA": replace(_FUSION, method="prose"),
    },
    run=fusion_cell.run,
    baseline="weighted 1",
    contrast=("masked", "weighted 1"),
    repeated=("alone", "gradient, lambda 0.1"),
    metrics=(
        "single identity",
        "same-show identity",
        "same-show binding",
        "same-show blending",
        "cross-style identity",
        "cross-style binding",
        "cross-style blending",
        "cross-style style",
    ),
    shown=tuple(f"mimi-{other}-{k:02d}" for other in ("bruno", "otto") for k in (1, 2, 3)),
    pictured=("trained jointly", "weighted 1", "least-squares", "gradient", "masked", "masked, base layout"),
)

FUSION_SEEN = Study(
    name="fusion-seen",
    question="What must LoRAs of one character each have seen, for their sum to know a pair?",
    arms={
        "weighted 1": _FUSION,
        "weighted 1, never in company": replace(_FUSION, company=False),
        "weighted 1, 16 clips alone": replace(_FUSION, company="more alone"),
        "weighted 1, tags": replace(_FUSION, captions="grammar"),
    },
    run=fusion_cell.run,
    baseline="weighted 1",
    contrast=("weighted 1, 16 clips alone", "weighted 1"),
    metrics=FUSION.metrics,
    seeds=1,
)

_THREE_LORAS = replace(_FUSION, teams=(("Mimi", "Bruno", "Otto"),), together=18)

FUSION_THREE = Study(
    name="fusion-three",
    question="What is left of three characters whose LoRAs were fused?",
    arms={
        "trained jointly": replace(_THREE_LORAS, method="joint"),
        "weighted 1": _THREE_LORAS,
        "least-squares": replace(_THREE_LORAS, method="least-squares"),
        "gradient": replace(_THREE_LORAS, method="gradient"),
        "masked": replace(_THREE_LORAS, method="masked"),
    },
    run=fusion_cell.run,
    baseline="weighted 1",
    contrast=("masked", "weighted 1"),
    metrics=("single identity", "three identity", "three style", "three binding", "three blending"),
    seeds=1,
)

# Of the study of motions the LoRA with which who is asked for was seen to make the motion most often.
_SCS = Meeting(imitation=replace(_MOTION, targets=("attn1",), heads="temporal"))

SCS = Study(
    name="scs",
    question="Do characters and a motion that were learnt apart come together by collaborative sampling?",
    arms={
        "subject alone": replace(_SCS, sampler="subject alone"),
        "motion alone": replace(_SCS, sampler="motion alone"),
        "summed": replace(_SCS, sampler="euler"),
        "summed, inverted noise": replace(_SCS, sampler="euler", inversion=0.3),
        "averaged": replace(_SCS, eta=0.0),
        "scs": _SCS,
        "scs, spatial only": replace(_SCS, temporal=False),
        "scs, temporal only": replace(_SCS, spatial=False),
        "scs-lite": replace(_SCS, sampler="scs-lite"),
        "scs, eta 0.05": replace(_SCS, eta=0.05),
        "scs, every second step": replace(_SCS, every=2),
        "scs, down to 0.5": replace(_SCS, window=(0.5, 1.0)),
        "scs, inverted noise": replace(_SCS, inversion=0.3),
        "scs, motion first": replace(_SCS, beta_subject=(0.4, 0.9), beta_motion=(0.6, 0.1)),
    },
    run=scs_cell.run,
    baseline="summed",
    contrast=("scs", "summed"),
    metrics=("one identity", "one motion", "one binding", "one carried", "one leakage"),
    shown=tuple(
        f"{motion}-{who}-01"
        for motion in ("leans-back", "drops-from-above", "trembles-and-jumps")
        for who in ("mimi", "otto")
    ),
    pictured=("subject alone", "motion alone", "summed", "averaged", "scs", "scs-lite"),
)

_VERB = Meeting(imitation=_SPOKEN)

SCS_VERB = Study(
    name="scs-verb",
    question="Do characters come together with a motion that has a verb of its own?",
    arms={
        "motion alone": replace(_VERB, sampler="motion alone"),
        "summed": replace(_VERB, sampler="euler"),
        "averaged": replace(_VERB, eta=0.0),
        "scs": _VERB,
        "scs-lite": replace(_VERB, sampler="scs-lite"),
    },
    run=scs_cell.run,
    baseline="summed",
    contrast=("scs", "summed"),
    repeated=("scs-lite",),
    metrics=SCS.metrics,
    shown=SCS.shown,
)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        IDENTITY, CAPTION_TAGS, ADAPTERS, MIXING, CCA_RATIO, CCA_SAME_STYLE, CCA_FOUR, CCA_EDGES, CCA_MASKS,
        PRESERVE, MOTION, MOTION_VERB, FUSION, FUSION_SEEN, FUSION_THREE, SCS, SCS_VERB,
    )
}  # fmt: skip
