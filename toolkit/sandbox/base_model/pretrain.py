"""`castmix sandbox pretrain`: trains the sandbox's base model and recognisers, on a CPU or one GPU.

1. data: generic clips are drawn (`clips`), and their latents are defined (`linear_codec`).
2. vae: the VAE is trained on these latents (`train_vae`).
3. dit: text encoder and DiT are trained (`train_dit`).
4. base: the parts are saved as a `WanPipeline` folder (`architecture`).
5. recogniser: the recognisers are trained (`toolkit.sandbox.recogniser.train`).

Every part resumes where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from toolkit.core.files import write_atomic
from toolkit.core.progress import say, stage, track
from toolkit.sandbox.world import paint, scenery, world
from toolkit.sandbox.world.actions import ACTIONS
from toolkit.sandbox.world.shows import named_looks

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import T5Tokenizer

    from toolkit.sandbox.base_model.train_dit import TextToVideo

PROMPTS = (
    "a red ball with a crown jumps in the meadow, cartoon style",
    "a blue bear ducks in the room, realistic style",
    "a striped green ghost with a hat walks on the beach, cartoon style",
    "a yellow cone with a scarf sways in the city, realistic style",
    "a red star with glasses jumps and a green ball sways in the snow, cartoon style",
    "a purple bear floats and a yellow box with a hat stands still in the meadow, realistic style",
)
HELD_OUT_CLIPS = 16  # clips for validating the VAE
Part = Literal["all", "data", "vae", "dit", "recogniser", "base"]


def tokenizer() -> T5Tokenizer:
    """Create the sandbox's tokenizer: one token per word of its captions; other text is spelled."""
    from toolkit.sandbox.base_model.architecture import new_tokenizer

    attributes = (*paint.COLOURS, *paint.BODIES, *paint.PATTERNS, *paint.ACCESSORIES, *scenery.SCENES)
    return new_tokenizer([*ACTIONS, *attributes, *scenery.PROPS, *world.STYLES, "by", "panning", "zooming"])


def contact_sheet(rows: Sequence[Tensor], path: Path) -> None:
    """Save videos (3, F, H, W) in [-1, 1] as one image: one row per video, every fourth frame."""
    import torch
    from PIL import Image

    strips = [torch.cat(list(v[:, ::4].unbind(1)), -1) for v in rows]
    picture = ((torch.cat(strips, 1).clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def sample_videos(
    model: TextToVideo, words: T5Tokenizer, prompts: Sequence[str], decode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Generate videos (B, 3, F, H, W) of prompts with the sandbox's default sampling settings and seed 0."""
    import torch

    from toolkit.models.flow_matching import guided, sigma_schedule
    from toolkit.models.registry import MODELS
    from toolkit.sampling.denoise import denoise
    from toolkit.sandbox.base_model.architecture import CHANNELS

    spec = MODELS["sandbox"]

    def ids(texts: Sequence[str]) -> Tensor:
        padded = words(list(texts), padding="max_length", max_length=spec.text_length, return_tensors="pt")
        tokens: Tensor = padded.input_ids
        return tokens

    asked, empty = ids(prompts), ids([""] * len(prompts))

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(latents))
        return guided(model(latents, level, asked), model(latents, level, empty), spec.guidance_scale)

    g = torch.Generator().manual_seed(0)
    noise = torch.randn((len(prompts), CHANNELS, 5, world.HEIGHT // 8, world.WIDTH // 8), generator=g)
    with torch.no_grad():
        return decode(denoise(velocity, noise, sigma_schedule(spec.steps, spec.shift)))


def _train_vae(folder: Path, steps: int, device: str, seed: int) -> None:
    import torch

    from toolkit.models.pixels import frames_to_video
    from toolkit.sandbox.base_model.architecture import new_vae, vae_decode, vae_encode
    from toolkit.sandbox.base_model.clips import load_codec
    from toolkit.sandbox.base_model.train_vae import psnr, train_vae

    frames = np.concatenate([np.load(p) for p in sorted(folder.glob("pixels-*.npy"))])
    test = frames_to_video(frames[-HELD_OUT_CLIPS:])
    training = train_vae(
        frames[:-HELD_OUT_CLIPS],
        load_codec(folder),
        folder / "vae.state",
        steps=steps,
        seed=seed,
        device=device,
    )
    plain = new_vae().eval()  # a compiled VAE would be recompiled for this batch size
    for step, _, vae in track(training, "VAE", total=steps):
        if step % 250 == 0 or step == steps:
            plain.load_state_dict({k: v.cpu() for k, v in vae.state_dict().items()})
            with torch.no_grad():
                drawn = vae_decode(plain, vae_encode(plain, test))
            say(f"VAE step {step}: {psnr(drawn, test):.2f} dB on held-out clips")
            contact_sheet(
                [v for pair in zip(test[:4], drawn[:4], strict=True) for v in pair],
                folder / f"sheets/vae-{step:06d}.png",
            )


def _load_vae(folder: Path) -> nn.Module:
    import torch

    from toolkit.sandbox.base_model.architecture import new_vae

    vae: nn.Module = new_vae()
    vae.load_state_dict(torch.load(folder / "vae.state", map_location="cpu", weights_only=True)["vae"])
    return vae.eval()


def _train_dit(folder: Path, steps: int, device: str, seed: int) -> None:
    from toolkit.sandbox.base_model.architecture import TEXT_LENGTH, vae_decode
    from toolkit.sandbox.base_model.clips import load_latents
    from toolkit.sandbox.base_model.train_dit import train_dit

    data = load_latents(folder)
    words, vae = tokenizer(), _load_vae(folder)
    ids = words(
        data.captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    training = train_dit(data, ids, len(words), folder / "dit.state", steps=steps, seed=seed, device=device)
    recent: list[tuple[float, float]] = []
    for step, errors, model in track(training, "DiT", total=steps):
        recent.append(errors)
        if step % 250 == 0 or step == steps:
            velocity, auxiliary = np.mean(recent, 0)
            say(f"DiT step {step}: velocity error {velocity:.4f}, auxiliary loss {auxiliary:.3f}")
            recent.clear()
            videos = sample_videos(model.to("cpu"), words, PROMPTS, lambda z: vae_decode(vae, z))
            model.to(device)
            contact_sheet(list(videos), folder / f"sheets/dit-{step:06d}.png")


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


def _assemble(folder: Path) -> Path:
    """Save the trained parts as the pipeline folder ``base`` in float16, with a contact sheet of samples."""
    import torch

    from toolkit.models.registry import MODELS
    from toolkit.sandbox.base_model.architecture import save_base, vae_decode
    from toolkit.sandbox.base_model.train_dit import TextToVideo

    words, vae = tokenizer(), _load_vae(folder)
    model = TextToVideo(len(words))
    state = torch.load(folder / "dit.state", map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    names = ("text_length", "shift", "guidance_scale", "steps", "fps", "num_frames", "height", "width")
    settings = {name: getattr(MODELS["sandbox"], name) for name in names}
    videos = sample_videos(model, words, PROMPTS, lambda z: vae_decode(vae, z))
    contact_sheet(list(videos), folder / "sheets" / "base.png")
    base = folder / "base"
    save_base(
        base,
        tokenizer=words,
        text_encoder=model.text_encoder,
        transformer=model.transformer,
        vae=vae,
        settings=settings,
    )
    size = sum(p.stat().st_size for p in base.rglob("*") if p.is_file())
    say(f"{base}: {size / 1e6:.1f} MB after {state['step']} DiT steps")
    return base


def pretrain(
    out: Path,
    *,
    part: Part = "all",
    clips: int = 14_000,
    vae_steps: int = 1500,
    dit_steps: int = 11_500,
    recogniser_clips: int = 6000,
    device: str | None = None,
    seed: int = 0,
) -> Path:
    """Train the sandbox's base model and recognisers from scratch. The same command resumes a stopped run.

    Args:
        out: Folder for drawn data, training states, contact sheets and the result, `base`.
        part: Run one part only: data, vae, dit, base (save the pipeline folder) or recogniser. Default: all.
        clips: Number of clips to draw, in files of a thousand.
        vae_steps: Training steps of the VAE, 4 clips each.
        dit_steps: Training steps of DiT and text encoder, 32 clips each.
        recogniser_clips: Number of clips to train the recognisers on.
        device: cuda or cpu. Default: a GPU if there is one.
        seed: Random seed.

    Returns:
        The pipeline folder, or `out` if only another part was run.
    """
    import torch

    from toolkit.sandbox.base_model.clips import SHARD, draw_shard

    out.mkdir(parents=True, exist_ok=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    todo = [part] if part != "all" else ["data", "vae", "dit", "base", "recogniser"]
    if "data" in todo:
        stage(f"drawing {clips} clips")
        for index in range(-(-clips // SHARD)):
            if not (out / f"latents-{index:03d}.pt").exists():
                draw_shard(index, out)
    if "vae" in todo:
        stage("VAE")
        _train_vae(out, vae_steps, device, seed)
    if "dit" in todo:
        stage("DiT and text encoder")
        _train_dit(out, dit_steps, device, seed)
    if "base" in todo:
        stage("pipeline folder")
        _assemble(out)
    if "recogniser" in todo and not (out / "recogniser.safetensors").exists():
        stage("recognisers")
        _train_recognisers(out, recogniser_clips, seed)
    return out / "base" if part in ("all", "base") else out
