"""`castmix generate`: a prompt and LoRAs to a video that says of itself that it is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from toolkit.captions.prompt_files import expand_prompt_files
from toolkit.core.errors import CastmixError
from toolkit.core.run_record import write_run
from toolkit.lora.loading import Given, read_given
from toolkit.lora.loading import parse_lora as parse_lora
from toolkit.models.registry import find_model, fingerprint
from toolkit.sampling.request import Sampler, Settings, Together, check_collaboration, parse_words
from toolkit.sampling.settings import Collaboration, Masked

Number = TypeVar("Number", int, float)


def generate(
    prompt: str | list[str],
    out: Path,
    *,
    lora: Sequence[str] = (),
    subject: Sequence[str] = (),
    motion: str | None = None,
    sampler: Sampler = "euler",
    motion_prompt: Sequence[str] = (),
    motion_clip: Path | None = None,
    words: Sequence[str] = (),
    model: str = "sandbox",
    negative_prompt: str = "",
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    shift: float | None = None,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 1,
    collaboration: Collaboration = Collaboration(),
    masked: Masked = Masked(),
) -> list[Path]:
    """Generate a video for each prompt, with a JSON file beside it that says how.

    The same seed gives the same bytes on the same machine, and the initial noise is the one that diffusers
    draws for it on a CPU.

    Subjects and a motion that were trained apart can be summed like all LoRAs (sampler euler), or sampled
    together (scs): one branch has the subjects, the other the motion, and their attention maps pull
    each other's latents while the noise is high. scs-lite compares predicted videos instead of maps: it
    needs no backward pass. A line for each step is written beside the video (NAME.steps.jsonl).

    Args:
        prompt: One or several; @sandbox or @FILE.jsonl is every prompt of a file (see presets/prompts).
        out: An .mp4 file for one prompt; a folder for several (000.mp4, 001.mp4, …).
        lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8); 1 if left out.
        subject: LoRAs of characters, likewise; several are summed.
        motion: A LoRA of a motion, likewise.
        sampler: euler sums all LoRAs; scs and scs-lite let --subject and --motion collaborate.
        motion_prompt: The motion branch's prompt, one for all or one for each; left out, the prompt with
            plain words for special tokens and for characters that the cast describes.
        motion_clip: The clip that the motion was learnt from: its inverted noise is mixed into the initial
            noise (see collaboration.inversion) and kept in a folder beside it.
        words: What the motion branch, or the base of masked.layout, calls a subject: NAME=NOUN (Mimi=bear);
            NOUN alone if both call it so.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        negative_prompt: What guidance leads away from.
        seed: Of the first prompt's noise; the others count on from it.
        steps: Denoising steps; left out, like all below, the model's own.
        guidance_scale: How strongly the prompt is followed; 1 is without guidance.
        shift: Of the noise levels towards noise.
        num_frames: Frames, 4k+1.
        height: In pixels.
        width: In pixels.
        batch_size: Prompts at a time. More are faster; a video's last bits may depend on its neighbours.
        collaboration: How scs and scs-lite go about it, and the share of the clip's noise.
        masked: How a masked fusion finds where each of its LoRAs is to act.

    Returns:
        The mp4 files, in the order of the prompts.

    Raises:
        CastmixError: sizes that the model cannot make, a LoRA that does not fit, a missing model.
    """
    arguments = dict(locals())
    spec = find_model(model)
    prompts = expand_prompt_files([prompt] if isinstance(prompt, str) else prompt)
    paths = _paths(Path(out), len(prompts))
    given = read_given(lora=lora, subject=subject, motion=motion)
    if not 0 <= seed < 2**63:
        raise CastmixError(f"seed must be between 0 and 2^63 - 1, got {seed}")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise CastmixError(f"guidance_scale must be finite, got {guidance_scale}")
    settings = Settings(
        negative_prompt=negative_prompt,
        steps=_positive("steps", steps, spec.steps),
        guidance_scale=spec.guidance_scale if guidance_scale is None else guidance_scale,
        shift=_positive("shift", shift, spec.shift),
        num_frames=spec.num_frames if num_frames is None else num_frames,
        height=spec.height if height is None else height,
        width=spec.width if width is None else width,
        batch_size=_positive("batch_size", batch_size, 1),
    )
    together = Together(
        sampler,
        _motion_prompts(motion_prompt, len(prompts)),
        None if motion_clip is None else Path(motion_clip),
        parse_words(words),
        collaboration,
        masked,
    )
    _check(together, given, settings)
    facts = {
        "model": spec.name,
        "model_fingerprint": fingerprint(spec),
        **{key: value for key, value in vars(settings).items() if key != "batch_size"},
        "fps": spec.fps,
        "loras": [one.facts() for one in given],
        **together.facts(),
    }
    from toolkit.sampling.pipeline import render

    render(spec, prompts, paths, seed, given, settings, together, facts)
    if Path(out).suffix != ".mp4":
        write_run(Path(out) / "run.yaml", "generate", arguments)
    return paths


def _paths(out: Path, count: int) -> list[Path]:
    if count == 0:
        raise CastmixError("no prompt: give one or several")
    if out.suffix == ".mp4":
        if count > 1:
            raise CastmixError(f"{count} prompts need a folder for --out, got the file {out}")
        return [out]
    if out.suffix and not out.is_dir():
        raise CastmixError(f"--out {out}: videos are written as .mp4, or into a folder")
    return [out / f"{i:03d}.mp4" for i in range(count)]


def _positive(name: str, value: Number | None, default: Number) -> Number:
    if value is not None and not value > 0:
        raise CastmixError(f"{name} must be above 0, got {value:g}")
    return default if value is None else value


def _motion_prompts(given: Sequence[str] | str, count: int) -> tuple[str, ...]:
    several = [given] if isinstance(given, str) else list(given)
    if len(several) not in (0, 1, count):
        raise CastmixError(
            f"--motion-prompt was given {len(several)} times for {count} prompts: give one, or one for each"
        )
    return tuple(several * count if len(several) == 1 else several)


def _check(together: Together, given: Sequence[Given], settings: Settings) -> None:
    """What can be said of the collaboration before anything is loaded."""
    check_collaboration(together.collaboration)
    if together.motion_clip is not None and not together.motion_clip.is_file():
        raise CastmixError(f"--motion-clip {together.motion_clip}: no such file")
    if together.masked.layout not in ("sum", "base"):
        raise CastmixError(f"masked.layout must be sum or base, got {together.masked.layout!r}")
    if together.masked.layout == "base" and together.sampler != "euler":
        raise CastmixError(
            f"--masked.layout base goes with --sampler euler: {together.sampler} has a branch that lays out"
        )
    if together.sampler == "euler":
        if together.motion_prompts:
            raise CastmixError(
                "--motion-prompt is the motion branch's, and --sampler euler has none: use scs"
            )
        return
    roles = {one.role for one in given}
    if absent := [f"--{role}" for role in ("subject", "motion") if role not in roles]:
        raise CastmixError(
            f"--sampler {together.sampler} needs both branches' LoRAs, {' and '.join(absent)} is missing"
        )
    if settings.num_frames < 5:
        raise CastmixError(
            f"--sampler {together.sampler} needs num_frames 5 or more, got {settings.num_frames}"
        )
    if together.sampler == "scs" and settings.batch_size > 1:
        raise CastmixError(
            "--sampler scs reads the maps of one prompt at a time: batch_size must be 1, "
            f"got {settings.batch_size}"
        )
