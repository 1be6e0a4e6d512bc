"""Studies of a motion that is learned from one clip."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import motion_cell
from benchmarks.motion_cell import Imitation, Spoken
from benchmarks.study import Study

ALL_LAYERS = ("attn1", "attn2", "ffn")
PLAIN = Imitation(targets=ALL_LAYERS, lr=4e-3)

MOTION = Study(
    name="motion",
    question="What carries a motion from one clip to others, and what brings the clip's looks along?",
    arms={
        "base": replace(PLAIN, steps=0),
        "plain LoRA": replace(PLAIN, omega=0.0),
        "omega 0.1": replace(PLAIN, omega=0.1),
        "omega 0.5": PLAIN,
        "omega 1": replace(PLAIN, omega=1.0),
        "debiased": replace(PLAIN, omega=0.0, debiased=1.0),
        "omega 0.5, debiased": replace(PLAIN, debiased=1.0),
        "omega 0.5, adjacent": replace(PLAIN, adjacent=0.1),
        "omega 0.5, motion-qk": replace(PLAIN, targets=("motion-qk",)),
        "omega 0.5, motion-vo": replace(PLAIN, targets=("motion-vo",)),
        "omega 0.5, temporal heads": replace(PLAIN, targets=("attn1",), heads="temporal"),
        "omega 0.5, kept": replace(PLAIN, preserve_share=0.25),
        "static video of": replace(PLAIN, appearance="A static video of {subjects}."),
        "video of": replace(PLAIN, appearance="A video of {subjects}."),
        "all said": replace(PLAIN, appearance="{look} stands still {place}"),
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
WITH_VERB = Spoken(targets=("attn1",), lr=5e-4, omega=0.0)
_WORDS = replace(PLAIN, targets=("attn1",), lr=5e-4, omega=0.0)

MOTION_VERB = Study(
    name="motion-verb",
    question="What does a verb that is learned first, as a token, add to a LoRA of one clip's motion?",
    arms={
        "words, attn1": _WORDS,
        "verb, attn1": WITH_VERB,
        "verb alone": replace(WITH_VERB, steps=0),
        "verb, motion-qk 4e-3": replace(WITH_VERB, targets=("motion-qk",), lr=4e-3),
        "verb, attn1, omega 0.5": replace(WITH_VERB, omega=0.5),
    },
    run=motion_cell.run,
    baseline="words, attn1",
    contrast=("verb, attn1", "words, attn1"),
    metrics=MOTION.metrics,
    shown=MOTION.shown,
)
