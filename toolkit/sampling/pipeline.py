"""Prompts to video files: encode, load, draw in batches, save. What stands behind `castmix generate`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.core.files import safetensors_bytes, write_atomic
from toolkit.core.progress import say, track
from toolkit.lora.file import Lora, load_lora
from toolkit.lora.loading import Given, Member, attach_members, new_members
from toolkit.lora.special_tokens import nouns, plain
from toolkit.models.flow_matching import sigma_schedule
from toolkit.models.interfaces import Denoiser, Encoders, ModelSpec
from toolkit.models.registry import default_device, latent_shape, load_denoiser, load_encoders
from toolkit.sampling.collaborative import Report
from toolkit.sampling.denoise import initial_noise
from toolkit.sampling.noise_inversion import clip_caption, mix_noise, motion_noise
from toolkit.sampling.output import save_generated
from toolkit.sampling.prompt_encoding import Scripts, write_plain, write_script, write_scripts
from toolkit.sampling.request import Settings, Together, hint
from toolkit.sampling.samplers import draw, kept_maps, log_lines


def render(
    spec: ModelSpec,
    prompts: Sequence[str],
    paths: Sequence[Path],
    seed: int,
    given: Sequence[Given],
    settings: Settings,
    together: Together,
    facts: dict[str, Any],
) -> None:
    """Encode all prompts, free the text encoder, load the network; then sample and save in batches."""
    shape = latent_shape(spec, settings.num_frames, settings.height, settings.width)
    loras = [load_lora(one.path) for one in given]
    hint(prompts, [lora.metadata for lora in loras])
    device = default_device()
    encoders = load_encoders(spec, device)
    members = new_members(given, loras)
    if any(one.subjects for one in members):
        facts = {**facts, "masked": asdict(together.masked)}
    script = _write(spec, encoders, prompts, loras, members, settings, together)
    caption = _caption(encoders, together, loras)
    encoders.release_text()
    denoiser = load_denoiser(spec, device)
    attach_members(denoiser, members, facts["model_fingerprint"])
    inverted = None if caption is None else _invert(spec, encoders, denoiser, caption, settings, together)
    size, count = settings.batch_size, len(paths)
    batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
    ticks = iter(track(range(len(batches) * settings.steps), "generating"))
    for rows in batches:
        reports: list[Report] = []

        def tick(step: int, report: Report | None, reports: list[Report] = reports) -> None:
            next(ticks, None)
            if report is not None:
                reports.append(report)

        noise = initial_noise([seed + row for row in rows], shape)
        latents = draw(
            denoiser,
            script,
            rows,
            noise if inverted is None else mix_noise(inverted, noise, together.collaboration.inversion),
            sigma_schedule(settings.steps, settings.shift),
            members,
            guidance_scale=settings.guidance_scale,
            sampler=together.sampler,
            collaboration=together.collaboration,
            masked=together.masked,
            callback=tick,
        )
        for k, row in enumerate(rows):
            video = encoders.decode_video(latents[k : k + 1])[0]
            own = {"prompt": prompts[row], "seed": seed + row}
            if script.motion_prompts:
                own["motion_prompt"] = script.motion_prompts[row]
                _save_log(paths[row], reports, k, script.subjects[row], together.collaboration.keep_maps)
            save_generated(paths[row], video, spec.fps, {**own, **facts})
    for _ in ticks:  # the bar ends
        pass


def _write(
    spec: ModelSpec,
    encoders: Encoders,
    prompts: Sequence[str],
    loras: Sequence[Lora],
    members: Sequence[Member],
    settings: Settings,
    together: Together,
) -> Scripts:
    """All prompts encoded; one that is too long for the model is told."""
    two = together.sampler != "euler"
    if wrong := [one.name for one in members if one.subjects and two and one.role != "subject"]:
        raise CastmixError(
            f"{', '.join(wrong)}: a masked fusion is of subjects, give its file with --subject"
        )
    if two:
        script = write_scripts(
            encoders,
            prompts,
            settings.negative_prompt,
            loras,
            members,
            motion_prompts=together.motion_prompts,
            words=together.words,
            cast=read_cast(),
            spatial=together.sampler == "scs" and together.collaboration.spatial,
        )
    else:
        script = write_script(encoders, prompts, settings.negative_prompt, loras, members)
        if together.masked.layout == "base":
            if not any(one.subjects for one in members):
                raise CastmixError(
                    "--masked.layout base lays out a masked fusion, and no --lora or --subject is one: see "
                    "castmix fuse --method masked"
                )
            own = write_plain(encoders, prompts, loras, members, words=together.words, cast=read_cast())
            script = dataclasses.replace(script, plain=own)
    for prompt in [*prompts, settings.negative_prompt, *script.motion_prompts]:
        tokens = encoders.count_tokens(prompt)
        if tokens > spec.text_length:
            limit = f"{spec.name} takes {spec.text_length}: its end is cut off"
            say(f"warning: the prompt {prompt[:40]!r}… has {tokens} tokens, {limit}")
    return script


def _caption(encoders: Encoders, together: Together, loras: Sequence[Lora]) -> Tensor | None:
    """The motion clip's caption in words that the base knows, encoded; None if no clip is to be inverted."""
    if together.motion_clip is None or together.collaboration.inversion == 0:
        return None
    words = {**nouns(loras, read_cast()), **together.words}
    return encoders.encode_text([plain(clip_caption(together.motion_clip), words)])


def _invert(
    spec: ModelSpec,
    encoders: Encoders,
    denoiser: Denoiser,
    caption: Tensor,
    settings: Settings,
    together: Together,
) -> Tensor:
    """The motion clip's noise (1, C, f, h, w)."""
    assert together.motion_clip is not None
    return motion_noise(
        together.motion_clip,
        spec,
        encoders,
        denoiser,
        caption,
        size=(settings.num_frames, settings.height, settings.width),
        steps=settings.steps,
        shift=settings.shift,
        iterations=together.collaboration.iterations,
    )


def _save_log(path: Path, reports: Sequence[Report], k: int, subjects: Sequence[str], maps: bool) -> None:
    """A line for each step beside the video, and the maps if they are wanted."""
    text = "".join(json.dumps(line) + "\n" for line in log_lines(reports, k))
    write_atomic(path.with_suffix(".steps.jsonl"), text)
    if maps and (kept := kept_maps(reports, k)):
        names = {"subjects": json.dumps(list(subjects), ensure_ascii=False)}
        write_atomic(path.with_suffix(".maps.safetensors"), safetensors_bytes(kept, names))
