"""`castmix sandbox report`: measures the sandbox's base model and the accuracy of its recognisers.

Prompts ask for looks that never occur in pretraining: `generic_looks(held_out=True)` or `unseen_looks`. The
recognisers do not see the prompts. The VAE is measured on shots of the named characters, which are not in its
training data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say, track
from toolkit.models.registry import find_model, latent_shape, load_denoiser, load_encoders
from toolkit.sandbox.base_model.vae_roundtrip import psnr, redraw
from toolkit.sandbox.world import population, scenery, world
from toolkit.sandbox.world.actions import BASE_ACTIONS
from toolkit.sandbox.world.shows import named_looks, plan_shot

if TYPE_CHECKING:
    from toolkit.models.interfaces import Denoiser, Encoders
    from toolkit.sandbox.recogniser.verdict import Creature, Verdict

STEPS, BATCH = 10, 8
PROMPT_SEED, SHOT_SEED = 60_000_000, 61_000_000  # not used for any training data
LOOK = ("body", "colour", "pattern", "accessory")


def sample_prompts(
    count: int, creatures: int, seed: int, unseen: bool = False
) -> list[tuple[str, population.Scenario]]:
    """Sample prompts about held-out looks, and the content that they ask for.

    Args:
        count: Number of prompts.
        creatures: Number of creatures per prompt.
        seed: Random seed.
        unseen: True: looks whose (body, colour, accessory) never occurs in pretraining. False: looks whose
            (body, colour, accessory) occurs there with other patterns only.
    """
    named = list(named_looks().values())
    looks = population.unseen_looks(named) if unseen else population.generic_looks(named, held_out=True)
    rows = []
    for index in range(count):
        rng = np.random.default_rng([PROMPT_SEED, seed, creatures, index])
        actors: list[world.Actor] = []
        style, scene = (str(rng.choice(values)) for values in (world.STYLES, scenery.SCENES))
        while len(actors) < creatures:
            look = looks[int(rng.integers(len(looks)))]
            if not any(look.colour == a.look.colour or look.body == a.look.body for a in actors):
                actors.append(world.Actor(look, str(rng.choice(list(BASE_ACTIONS))), style, 0.0))
        said = [population.describe(a.look) for a in actors]
        text = population.prose_caption(said, [a.action for a in actors], scene, style)
        rows.append((text, population.Scenario(tuple(actors), scene, style, text)))
    return rows


def generate(
    texts: Sequence[str], encoders: Encoders, denoiser: Denoiser, model: str, seed: int
) -> tuple[list[NDArray[np.uint8]], float]:
    """Generate clips (F, H, W, 3) of prompts, and return the seconds per clip, including decoding."""
    from toolkit.models.flow_matching import sigma_schedule
    from toolkit.models.pixels import video_to_frames
    from toolkit.sampling.denoise import denoise, guided_velocity, initial_noise

    spec = find_model(model)
    shape = latent_shape(model, world.NUM_FRAMES, world.HEIGHT, world.WIDTH)
    empty, clips, start = encoders.encode_text([""]), list[NDArray[np.uint8]](), time.monotonic()
    for first in track(range(0, len(texts), BATCH), "drawing prompts"):
        some = list(texts[first : first + BATCH])
        velocity = guided_velocity(denoiser, encoders.encode_text(some), empty, spec.guidance_scale)
        noise = initial_noise([seed * 1_000_003 + first + i for i in range(len(some))], shape)
        latents = denoise(velocity, noise, sigma_schedule(STEPS, spec.shift))
        clips += list(video_to_frames(encoders.decode_video(latents)))
    return clips, (time.monotonic() - start) / len(texts)


def draw_shots(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Draw shots of the sandbox's shows at twice the base model's size and downscale them: (F, 64, 96, 3)."""
    shows = [show for show in read_cast().shows if show.source == "sandbox"]
    clips = []
    for index in range(count):
        show = shows[index % len(shows)]
        rng = np.random.default_rng([SHOT_SEED, seed, index])
        shot = plan_shot(show, show.characters, index // len(shows), "", rng)
        clips.append(world.draw_downscaled(shot.actors, shot.scene, show.style, shot.camera, shot.prop))
    return clips


def largest_creature(verdict: Verdict) -> Creature | None:
    """Return the creature with the largest boxes, or None if there is none."""
    return max(verdict.creatures, key=lambda c: float(np.nansum(_area(c.boxes))), default=None)


def _area(boxes: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    area: NDArray[np.floating[Any]] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


BINDING_ATTRIBUTES = {
    "binding": ("body", "colour", "accessory"),
    "binding_with_pattern": LOOK,
    "binding_with_action": ("body", "colour", "accessory", "action"),
}
"""Attributes that must be right on each creature, for each binding score."""


def check_binding(verdict: Verdict, actors: Sequence[world.Actor]) -> dict[str, bool]:
    """Return for each binding score whether exactly the asked creatures are there with the right attributes.

    Creatures are matched by their order from left to right, because the first one in a prompt is on the left.
    """
    together = len(verdict.creatures) == len(actors)
    wrong = {
        name
        for seen, actor in zip(verdict.creatures, actors, strict=False)
        for name in (*LOOK, "action")
        if getattr(seen, name) != getattr(actor if name == "action" else actor.look, name)
    }
    return {name: together and not wrong & {*parts} for name, parts in BINDING_ATTRIBUTES.items()}


def attribute_shares(verdicts: Sequence[Verdict], asked: Sequence[population.Scenario]) -> dict[str, float]:
    """Return for each attribute the share of one-creature prompts for which it is as asked."""
    rows: dict[str, list[bool]] = {}
    for verdict, scenario in zip(verdicts, asked, strict=True):
        actor, seen = scenario.actors[0], largest_creature(verdict)
        for name in LOOK:
            rows.setdefault(name, []).append(
                seen is not None and getattr(seen, name) == getattr(actor.look, name)
            )
        rows.setdefault("action", []).append(seen is not None and seen.action == actor.action)
        rows.setdefault("creature_style", []).append(seen is not None and seen.style == actor.style)
        rows.setdefault("style", []).append(verdict.scene_style == scenario.style)
        rows.setdefault("scene", []).append(verdict.scene == scenario.scene)
    return {name: round(float(np.mean(values)), 4) for name, values in rows.items()}


def measure(
    samples: int = 200,
    seed: int = 0,
    model: str = "sandbox",
    sheet: Path | None = None,
    unseen: bool = False,
) -> dict[str, Any]:
    """Return the numbers of `report`: shares in [0, 1], VAE PSNR in dB, seconds per clip, accuracies."""
    from toolkit.sandbox.recogniser.accuracy import recogniser_accuracy
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many

    if samples < 4:
        raise CastmixError(f"samples is {samples}: use 4 or more, and 200 for results worth quoting")
    encoders, denoiser, judges = load_encoders(model), load_denoiser(model), load_recognisers()
    alone, pairs = (sample_prompts(samples, creatures, seed, unseen) for creatures in (1, 2))
    began = time.process_time()
    clips, seconds = generate([t for t, _ in alone + pairs], encoders, denoiser, model, seed)
    cpu = (time.process_time() - began) / len(clips)
    verdicts = recognise_many(judges, clips)
    if sheet is not None:
        first = [*range(8), *range(samples, samples + 8)] if samples > 8 else [*range(2 * samples)]
        captions = [[(alone + pairs)[k][0], f"seen: {describe_verdict(verdicts[k])}"] for k in first]
        contact_sheet([clips[k] for k in first], captions, sheet)
    found = attribute_shares(verdicts[:samples], [s for _, s in alone])
    together = [check_binding(v, s.actors) for v, (_, s) in zip(verdicts[samples:], pairs, strict=True)]
    found |= {name: round(float(np.mean([row[name] for row in together])), 4) for name in BINDING_ATTRIBUTES}
    say("measuring the VAE and the recognisers")
    few = max(4, samples // 4)
    drawn = draw_shots(few, seed)
    pairs_of_clips = [(redraw(encoders, clip), clip) for clip in drawn]
    quality = float(np.mean([psnr(again, clip) for again, clip in pairs_of_clips]))
    first_frames = float(np.mean([psnr(again[:1], clip[:1]) for again, clip in pairs_of_clips]))
    truth = recogniser_accuracy(judges, samples, seed)
    again = recogniser_accuracy(judges, samples, seed, lambda clip: redraw(encoders, clip))
    judged = {name: {"truth": truth[name], "reconstructions": again[name]} for name in truth}
    about = {"base": find_model(model).name, "samples": samples, "seed": seed, "unseen": unseen, **found}
    about |= {"vae_psnr": round(quality, 2), "first_frame_psnr": round(first_frames, 2)}
    about |= {"seconds_per_clip": round(seconds, 3)}
    about |= {"cpu_seconds_per_clip": round(cpu, 3)}
    return about | {"recognisers": judged}


def report(
    *,
    samples: int = 200,
    seed: int = 0,
    json: bool = False,
    model: str = "sandbox",
    sheet: Path | None = None,
    unseen: bool = False,
) -> str:
    """Measure the sandbox's base model and the accuracy of its recognisers.

    Args:
        samples: Number of prompts with one creature, of prompts with two, and of clips for the recognisers.
            The VAE is measured on a quarter as many shots.
        seed: Random seed of the prompts and clips.
        json: Print one JSON object instead of a table.
        model: Folder of another base model of the sandbox's kind.
        sheet: Path of a contact sheet to save: the first clips, with their prompts and the recognised
            content.
        unseen: Ask for looks whose combination of body, colour and accessory never occurs in pretraining.
            Default: looks whose combination occurs there with other patterns only.

    Raises:
        CastmixError: Fewer than 4 samples.
    """
    from json import dumps

    row = measure(samples, seed, model, sheet, unseen)
    return dumps(row) if json else _table(row)


def describe_verdict(verdict: Verdict) -> str:
    """Describe the recognised content in the form of a prompt."""
    said = [
        population.describe(world.Look(one.body, one.colour, one.pattern, one.accessory))
        for one in verdict.creatures
    ]
    actions = [one.action for one in verdict.creatures]
    return population.prose_caption(said, actions, verdict.scene, verdict.scene_style) if said else "nobody"


def contact_sheet(
    clips: Sequence[NDArray[np.uint8]], captions: Sequence[Sequence[str]], path: Path, scale: int = 2
) -> None:
    """Save clips as one image, two per row: five frames of each, with its captions below."""
    from io import BytesIO

    from PIL import Image, ImageDraw, ImageFont

    frames = [np.concatenate(list(clip[:: len(clip) // 4]), 1) for clip in clips]
    height, width = frames[0].shape[0] * scale, frames[0].shape[1] * scale
    line, gap = 15, 12
    cell = height + line * max(map(len, captions)) + gap
    picture = Image.new("RGB", (2 * width + gap, cell * -(-len(clips) // 2)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for k, (strip, lines) in enumerate(zip(frames, captions, strict=True)):
        left, top = (k % 2) * (width + gap), (k // 2) * cell
        picture.paste(Image.fromarray(strip).resize((width, height), Image.Resampling.LANCZOS), (left, top))
        for number, text in enumerate(lines):
            pen.text((left + 2, top + height + number * line), text, fill="black", font=font)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _table(row: dict[str, Any]) -> str:
    judges = row["recognisers"]
    lines = [f"{name:20} {value}" for name, value in row.items() if name != "recognisers"]
    for name, right in judges.items():
        lines.append(
            f"judge of {name:11} {right['truth']:.3f} on truth, {right['reconstructions']:.3f} redrawn"
        )
    return "\n".join(lines)
