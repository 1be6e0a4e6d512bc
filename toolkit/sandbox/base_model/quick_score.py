"""Scores a base model in training on few prompts, always the same ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from toolkit.models.registry import load_denoiser, load_encoders
from toolkit.sandbox.base_model.report import (
    attribute_shares,
    check_binding,
    contact_sheet,
    describe_verdict,
    generate,
    sample_prompts,
)
from toolkit.sandbox.base_model.vae_roundtrip import psnr
from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many
from toolkit.sandbox.world.population import Scenario, describe, prose_caption

PROMPTS, SEED = 24, 5
SHOWN = 6  # clips of each kind on the contact sheet
SCORES = {
    "colour": "colour of one creature",
    "body": "body of one creature",
    "pattern": "pattern of one creature",
    "accessory": "accessory of one creature",
    "action": "action of one creature",
    "creature_style": "style of one creature",
    "scene": "scene behind one creature",
    "style": "style of that scene",
    "binding": "two creatures, body, colour and accessory of each",
    "binding_with_pattern": "two creatures, the whole look of each",
    "binding_unseen": "two creatures, looks never seen together",
    "triples": "three creatures, body, colour and accessory of each",
    "first_frame_psnr": "creatures that stand still: first frame against the last, in dB",
}
"""What each score is. All but the last are shares of prompts."""


def quick_score(model: Path, sheet: Path, prompts: int = PROMPTS) -> dict[str, float]:
    """Generate clips with a model folder, have them recognised and return the `SCORES`.

    Args:
        model: The folder.
        sheet: Path of the contact sheet to save.
        prompts: Number of prompts with one creature, with two, with two of unseen looks, and with three.
    """
    asked = {
        "one": sample_prompts(prompts, 1, SEED),
        "two": sample_prompts(prompts, 2, SEED),
        "unseen": sample_prompts(prompts, 2, SEED, unseen=True),
        "three": sample_prompts(prompts, 3, SEED),
        "still": still_prompts(max(1, prompts // 3)),
    }
    rows = [row for kind in asked.values() for row in kind]
    encoders, denoiser = load_encoders(str(model)), load_denoiser(str(model))
    clips, _ = generate([text for text, _ in rows], encoders, denoiser, str(model), SEED)
    verdicts = recognise_many(load_recognisers(), clips)
    shown = [start + k for start in range(0, 4 * prompts, prompts) for k in range(min(SHOWN, prompts))]
    captions = [[rows[k][0], f"seen: {describe_verdict(verdicts[k])}"] for k in shown]
    contact_sheet([clips[k] for k in shown], captions, sheet)
    seen = {kind: verdicts[k * prompts : (k + 1) * prompts] for k, kind in enumerate(asked)}
    bound = {
        kind: [check_binding(v, s.actors) for v, (_, s) in zip(seen[kind], asked[kind], strict=True)]
        for kind in ("two", "unseen", "three")
    }
    found = attribute_shares(seen["one"], [scenario for _, scenario in asked["one"]])
    found |= {
        "binding": _share(bound["two"], "binding"),
        "binding_with_pattern": _share(bound["two"], "binding_with_pattern"),
        "binding_unseen": _share(bound["unseen"], "binding"),
        "triples": _share(bound["three"], "binding"),
        "first_frame_psnr": float(np.mean([psnr(clip[:1], clip[-1:]) for clip in clips[4 * prompts :]])),
    }
    return {name: round(found[name], 4) for name in SCORES}


def _share(rows: list[dict[str, bool]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def still_prompts(count: int) -> list[tuple[str, Scenario]]:
    """Return prompts with one creature that stands still, and their content."""
    rows = []
    for _, one in sample_prompts(count, 1, SEED):
        (actor,) = one.actors
        text = prose_caption([describe(actor.look)], ["stands still"], one.scene, one.style)
        still = replace(one, actors=(replace(actor, action="stands still"),), caption=text)
        rows.append((text, still))
    return rows
