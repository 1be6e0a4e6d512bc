"""`castmix sandbox pretrain`: trains the sandbox's base model and recognisers, on a CPU or one GPU.

1. vae: latents are defined (`linear_codec`), and the VAE is trained to encode and decode them (`vae_stage`).
2. data: generic clips are drawn and encoded (`clips`).
3. dit: text encoder and DiT are trained (`train_dit`).
4. base: the parts are saved as a `WanPipeline` folder (`warm_start.save_weights`).
5. recogniser: the recognisers are trained (`toolkit.sandbox.recogniser.train`).

Every part resumes where it was interrupted. `--background` goes on from the newest committed weights instead,
without an end (`endless`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from toolkit.core.errors import CastmixError
from toolkit.core.files import save_torch, write_atomic
from toolkit.core.progress import say, stage, track
from toolkit.sandbox.world.shows import named_looks

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

VAE_STEPS, DIT_STEPS = 2000, 11_500
Part = Literal["all", "vae", "data", "dit", "base", "recogniser"]


def _train_vae(folder: Path, steps: int, device: str, seed: int) -> None:
    import torch

    from toolkit.sandbox.base_model.architecture import CHANNELS, new_vae
    from toolkit.sandbox.base_model.linear_codec import fit_linear
    from toolkit.sandbox.base_model.vae_stage import train_vae_in, vae_clips

    torch.manual_seed(seed)
    if not (folder / "codec.pt").exists():
        save_torch(asdict(fit_linear(vae_clips(folder)[:1000], CHANNELS)), folder / "codec.pt")
    train_vae_in(folder, new_vae(), steps, seed=seed, device=device)


def _load_vae(folder: Path) -> AutoencoderKLWan:
    import torch

    from toolkit.sandbox.base_model.architecture import new_vae

    vae = new_vae()
    vae.load_state_dict(torch.load(folder / "vae.state", map_location="cpu", weights_only=True)["vae"])
    return vae.eval()


def _draw_clips(folder: Path, clips: int) -> None:
    from toolkit.sandbox.base_model.clips import SHARD, draw_shard

    vae = _load_vae(folder)
    for index in range(-(-clips // SHARD)):
        path = folder / "clips" / f"shard-{index:05d}.pt"
        if not path.exists():
            draw_shard(index, vae, path)


def _train_dit(folder: Path, steps: int, device: str, seed: int) -> None:
    import torch

    from toolkit.sandbox.base_model.architecture import vae_decode
    from toolkit.sandbox.base_model.clips import load_shards, token_ids
    from toolkit.sandbox.base_model.history import saved_step
    from toolkit.sandbox.base_model.previews import PROMPTS, contact_sheet, sample_videos, tokenizer
    from toolkit.sandbox.base_model.train_dit import Schedule, TextToVideo, train_dit

    torch.manual_seed(seed)
    words, vae = tokenizer(), _load_vae(folder)
    data = load_shards(sorted((folder / "clips").glob("shard-*.pt")))
    ids = token_ids(words, data.captions)
    model, schedule = TextToVideo(len(words)), Schedule(steps)
    training = train_dit(
        lambda step: (data, ids), model, folder / "dit.state", schedule, seed=seed, device=device
    )
    recent: list[tuple[float, float]] = []
    for step, errors, average in track(training, "DiT", steps, saved_step(folder / "dit.state")):
        recent.append(errors)
        if step % 250 == 0 or step == steps:
            velocity, auxiliary = np.mean(recent, 0)
            say(f"DiT step {step}: velocity error {velocity:.4f}, auxiliary loss {auxiliary:.3f}")
            recent.clear()
            videos = sample_videos(average.to("cpu"), words, PROMPTS, lambda z: vae_decode(vae, z))
            average.to(device)
            contact_sheet(list(videos), folder / f"sheets/dit-{step:06d}.png")


def _assemble(folder: Path) -> None:
    """Save the trained parts as the pipeline folder ``base``."""
    import torch

    from toolkit.sandbox.base_model.previews import tokenizer
    from toolkit.sandbox.base_model.train_dit import TextToVideo
    from toolkit.sandbox.base_model.warm_start import save_weights

    model = TextToVideo(len(tokenizer()))
    state = torch.load(folder / "dit.state", map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    save_weights(folder / "base", model, _load_vae(folder), {"steps": state["step"]})
    size = sum(p.stat().st_size for p in (folder / "base").rglob("*") if p.is_file())
    say(f"{folder / 'base'}: {size / 1e6:.1f} MB after {state['step']} DiT steps")


def _train_recognisers(folder: Path, clips: int, seed: int) -> None:
    """Train ``recogniser.safetensors`` in `folder`. States and examples are stored in ``recognisers/``."""
    from toolkit.models.registry import load_encoders
    from toolkit.sandbox.base_model.vae_roundtrip import redraw
    from toolkit.sandbox.recogniser.train import train_recognisers

    encoders, work = load_encoders(str(folder / "base")), folder / "recognisers"
    training = train_recognisers(
        work, named_looks(), clips=clips, redraw=lambda clip: redraw(encoders, clip), seed=seed
    )
    for part, done, total, loss in training:
        if done % max(1, total // 10) == 0:
            say(f"recognisers: {part} {done}/{total}" + (f", loss {loss:.3f}" if loss else ""))
    write_atomic(folder / "recogniser.safetensors", (work / "recogniser.safetensors").read_bytes())


def pretrain(
    out: Path | None = None,
    *,
    part: Part = "all",
    clips: int = 14_000,
    vae_steps: int = VAE_STEPS,
    dit_steps: int | None = None,
    recogniser_clips: int = 6000,
    device: str | None = None,
    seed: int = 0,
    background: bool = False,
    status: Path | None = None,
) -> Path | str:
    """Train the sandbox's base model and recognisers. The same command resumes a stopped run.

    Args:
        out: Folder for drawn data, training states, contact sheets and the result, `base`. Default with
            `background`: ~/castmix-base.
        part: Run one part only: vae, data, dit, base (save the pipeline folder) or recogniser. Default: all.
        clips: Number of clips to draw, in files of 250. Not used with `background`.
        vae_steps: Training steps of the VAE, 2 clips each.
        dit_steps: Training steps of DiT and text encoder, 32 clips each. Default: 11500; with `background`,
            no end.
        recogniser_clips: Number of clips to train the recognisers on. Not used with `background`.
        device: cuda or cpu. Default: a GPU if there is one. `background` uses one CPU core.
        seed: Random seed.
        background: Go on from the newest committed weights, in a process of its own with the lowest priority.
        status: Print how far the background run in this folder is, and save a plot of its history.

    Returns:
        The pipeline folder, `out` if only another part was run, or a message.

    Raises:
        CastmixError: No folder is given, a number is not positive, the folder of `status` has no run, or the
            background process ended at once.
    """
    _check(
        {"clips": clips, "vae_steps": vae_steps, "dit_steps": dit_steps, "recogniser_clips": recogniser_clips}
    )
    if status is not None:
        from toolkit.sandbox.base_model.status import report

        return report(status)
    if background:
        if part != "all" or device not in (None, "cpu"):
            raise CastmixError("--background trains all parts on the CPU: leave out --part and --device")
        from toolkit.sandbox.base_model.background import DEFAULT_FOLDER, start

        folder = (out or DEFAULT_FOLDER).expanduser()
        return start(folder, {"vae_steps": vae_steps, "dit_steps": dit_steps, "seed": seed})
    if out is None:
        raise CastmixError("--out is missing: a folder for data, states and the result")
    steps = dit_steps or DIT_STEPS
    _from_scratch(out, part, clips, vae_steps, steps, recogniser_clips, device, seed)
    return out / "base" if part in ("all", "base") else out


def _check(numbers: Mapping[str, int | None]) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise CastmixError(f"{name} is {number}: expected 1 or more")


def _from_scratch(
    out: Path,
    part: Part,
    clips: int,
    vae_steps: int,
    dit_steps: int,
    recogniser_clips: int,
    device: str | None,
    seed: int,
) -> None:
    from toolkit.models.registry import default_device

    out.mkdir(parents=True, exist_ok=True)
    device = device or default_device()
    todo = [part] if part != "all" else ["vae", "data", "dit", "base", "recogniser"]
    if "vae" in todo:
        stage("VAE")
        _train_vae(out, vae_steps, device, seed)
    if "data" in todo:
        stage(f"drawing {clips} clips")
        _draw_clips(out, clips)
    if "dit" in todo:
        stage("DiT and text encoder")
        _train_dit(out, dit_steps, device, seed)
    if "base" in todo:
        stage("pipeline folder")
        _assemble(out)
    if "recogniser" in todo and not (out / "recogniser.safetensors").exists():
        stage("recognisers")
        _train_recognisers(out, recogniser_clips, seed)
