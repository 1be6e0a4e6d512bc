"""Studies of LoRAs that are fused into one."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import fusion_cell
from benchmarks.fusion_cell import Fusing
from benchmarks.study import Study

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
