"""`castmix generate`: prompts and LoRAs to videos that say of themselves that they are generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.captions.prompt_files import expand_prompt_files
from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.core.run_record import write_run
from toolkit.lora.loading import read_references
from toolkit.models.registry import find_model
from toolkit.sampling.request import check_batch, new_request
from toolkit.sampling.settings import Collaboration, Masked, Sampling

if TYPE_CHECKING:
    from toolkit.sampling.request import Request
    from toolkit.sampling.session import Studio


def generate(
    prompt: str | list[str],
    out: Path,
    *,
    model: str = "sandbox",
    lora: Sequence[str] = (),
    subject: Sequence[str] = (),
    motion: str | None = None,
    words: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 1,
    sampling: Sampling = Sampling(),
    collaboration: Collaboration = Collaboration(),
    masked: Masked = Masked(),
) -> list[Path]:
    """Generate a video for each prompt, and a JSON file beside it that says how.

    The same seed gives the same bytes on the same machine. LoRAs are summed (sampler euler), or subjects and
    a motion are sampled together (scs, scs-lite): two branches whose attention maps pull each other's
    latents.

    Args:
        prompt: One or several. @sandbox or @FILE.jsonl is every prompt of a file (see presets/prompts).
        out: An .mp4 file for one prompt; a folder for several (000.mp4, 001.mp4, …).
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8), else 1.
        subject: LoRAs of characters, written the same way.
        motion: A LoRA of a motion, written the same way.
        words: Noun for a subject, NAME=NOUN (Mimi=bear), for the motion branch and masked.layout base.
        seed: Seed of the first prompt's noise. Each following prompt adds 1.
        batch_size: Prompts sampled at once. More is faster; the last bits of a video may depend on the batch.
        sampling: How videos are sampled.
        collaboration: Settings of scs and scs-lite, and the share of a motion clip's noise.
        masked: How a masked fusion finds the places of its LoRAs.

    Returns:
        The mp4 files, in the order of the prompts.

    Raises:
        CastmixError: a size that the model cannot make, a LoRA that does not fit, a missing model.
    """
    arguments = dict(locals())
    prompts = expand_prompt_files([prompt] if isinstance(prompt, str) else prompt)
    paths = _paths(Path(out), len(prompts))
    references = read_references(lora=lora, subject=subject, motion=motion)
    settings = {"sampling": sampling, "words": words, "collaboration": collaboration, "masked": masked}
    request = new_request(find_model(model), references, **settings)  # type: ignore[arg-type]
    check_batch(request, len(prompts), batch_size)
    if not 0 <= seed < 2**63:
        raise CastmixError(f"seed must be between 0 and 2^63 - 1, got {seed}")
    from toolkit.sampling.session import new_studio

    with new_studio(model).use_references(references) as studio:
        _generate(studio, request, prompts, paths, seed, batch_size)
    if Path(out).suffix != ".mp4":
        write_run(Path(out) / "run.yaml", "generate", arguments)
    return paths


def _generate(
    studio: Studio, request: Request, prompts: Sequence[str], paths: Sequence[Path], seed: int, size: int
) -> None:
    """Encode all prompts, free the text encoder, then sample and save batch by batch."""
    job = studio.encode(prompts, request)
    studio.encoders.release_text_encoder()  # before the network is loaded
    batches = [range(i, min(i + size, len(paths))) for i in range(0, len(paths), size)]
    bar = iter(track(range(len(batches) * request.numbers.steps), "generating"))
    for rows in batches:
        videos = studio.sample(job, rows, [seed + row for row in rows], lambda: next(bar, None))
        for row, video in zip(rows, videos, strict=True):
            video.save(paths[row])
    next(bar, None)  # close the progress bar


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
