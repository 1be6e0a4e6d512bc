"""Trains the recogniser on frames drawn for it: named characters in either style, strangers, near misses.

A near miss shares all but one of body, colour and accessory with a named character (two of them with colours
swapped look just like that), and counts as nobody. Frames are degraded as a VAE and a young DiT degrade them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.progress import track
from toolkit.sandbox import paint, world
from toolkit.sandbox.recognise import Recogniser, to_tensor

LIGHT, HEAVY, MIXED = 6, 3, 3


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """The same look but for one of the three attributes that make a character."""
    key = str(rng.choice(["body", "colour", "accessory"]))
    pools = {"body": list(paint.BODIES), "colour": list(paint.COLOURS), "accessory": list(paint.ACCESSORIES)}
    other = str(rng.choice([v for v in pools[key] if v != getattr(look, key)]))
    return replace(look, **{key: other})


def people(
    seed: int, named: Mapping[str, world.Look], strangers: Sequence[world.Look], most: int = 3
) -> tuple[tuple[world.Actor, ...], NDArray[np.float32], str, str, float]:
    """Actors, who of the named is among them ((names, styles) of 0 and 1), scene and its style, a time.

    Styles of characters and of the scene are independent.
    """
    rng = np.random.default_rng(seed)
    names = list(named)
    truth = np.zeros((len(names), len(world.STYLES)), np.float32)
    actors: list[world.Actor] = []
    for name in rng.permutation(names)[: int(rng.choice([1, 2, 2, most]))]:
        kind, style = rng.random(), int(rng.integers(2))
        look = named[str(name)]
        if kind < 0.25:
            look = strangers[int(rng.integers(len(strangers)))]
        elif kind < 0.55:
            look = near_miss(look, rng)
        else:
            truth[names.index(str(name)), style] = 1
        action = str(rng.choice(list(world.ACTIONS)))
        actors.append(world.Actor(look, action, world.STYLES[style], 0.0))
    scene, scene_style = str(rng.choice(paint.SCENES)), world.STYLES[int(rng.integers(2))]
    time = rng.uniform(0, 2 * world.PERIOD)
    return world.place(actors, rng), truth, scene, scene_style, time


def frame(
    seed: int, named: Mapping[str, world.Look], strangers: Sequence[world.Look]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One frame (64, 96, 3) and who of the named is in it: see `people`."""
    actors, truth, scene, style, time = people(seed, named, strangers)
    picture, _ = world.draw(actors, scene, style, seconds=np.asarray([time], np.float32), seed=seed)
    return picture[0], truth


def degrade(frames: Tensor, g: torch.Generator, heavy: bool) -> Tensor:
    """Blur, noise, and shifts of brightness and contrast, each frame its own.

    `heavy` adds what a young DiT does: a stronger blur and soft blotches of colour, in about half of the
    frames.
    """
    n = len(frames)

    def draw() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=g)

    def blur(frames: Tensor, factor: int, mix: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(frames, factor)
        soft = nn.functional.interpolate(small, scale_factor=float(factor), mode="bilinear")
        return frames + mix * (soft - frames)

    frames = blur(frames, 2, draw())
    if heavy:
        frames = blur(frames, 4, 0.75 * draw() * (draw() < 0.5))
        blotches = 0.25 * torch.randn(n, 3, 8, 12, generator=g) * draw() * (draw() < 0.6)
        frames = frames + nn.functional.interpolate(blotches, size=frames.shape[2:], mode="bilinear")
    frames = frames * (0.85 + 0.3 * draw()) + 0.15 * (draw() - 0.5)
    return frames + 0.1 * draw() * torch.randn(frames.shape, generator=g)


def redrawn(
    count: int, named: Mapping[str, world.Look], strangers: Sequence[world.Look], model: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames (N, 64, 96, 3) and truths of clips that the base model has redrawn, as its own videos look.

    A clip is noised to a level between 0.3 and 0.7 and denoised by four Euler steps without a prompt: who is
    in it stays, how it is drawn becomes the model's. Six frames of each clip are kept.
    """
    from toolkit.flow import interpolate, sample_euler
    from toolkit.models import load_denoiser, load_encoders

    encoders, denoiser = load_encoders(model), load_denoiser(model)
    empty, frames, truths = encoders.encode_text([""]), [], []
    for index in track(range(count), "redrawing clips"):
        actors, truth, scene, style, _ = people(70_000_000 + index, named, strangers, most=2)
        clip, _ = world.draw(actors, scene, style, seed=index)
        g = torch.Generator().manual_seed(index)
        level = 0.3 + 0.4 * torch.rand(1, generator=g)
        with torch.no_grad():
            video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            latents = encoders.encode_video(video)
            start = interpolate(latents, torch.randn(latents.shape, generator=g), level)
            sigmas = level * torch.linspace(1, 0, 5)
            again = encoders.decode_video(sample_euler(lambda x, s: denoiser(x, s, empty), start, sigmas))
        pixels = ((again.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 3, 0).numpy()
        frames += list(pixels[::3])
        truths += [truth] * len(pixels[::3])
    return np.stack(frames), np.stack(truths)


def train_recogniser(
    drawn: tuple[NDArray[np.uint8], NDArray[np.float32]],
    again: tuple[NDArray[np.uint8], NDArray[np.float32]],
    names: Sequence[str],
    *,
    seed: int = 0,
) -> Iterator[tuple[int, float, Recogniser]]:
    """Train on frames (N, 64, 96, 3) with truths (N, names, styles); yields (epoch, mean loss, model).

    `LIGHT` epochs on lightly degraded drawn frames, `HEAVY` ones on heavily degraded ones, then `MIXED` short
    ones on those and on as many of `again`, frames that the base model has redrawn.
    """
    torch.manual_seed(seed)
    model, epoch, size = Recogniser(names), 0, 64
    stages = ((LIGHT, 4e-3, False, False), (HEAVY, 2e-3, True, False), (MIXED, 1.5e-3, True, True))
    for epochs, lr, heavy, mixed in stages:
        count = len(drawn[0]) // (4 if mixed else 1) // size
        optim = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optim, lr, total_steps=max(2, epochs * count))
        for _ in range(epochs):
            g = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(drawn[0]), generator=g)[: count * size].view(count, size).numpy()
            losses = []
            for pick in order:
                frames, truths = degrade(to_tensor(drawn[0][pick]), g, heavy), drawn[1][pick]
                if mixed:
                    half = torch.randint(len(again[0]), (size,), generator=g).numpy()
                    redone = to_tensor(again[0][half])
                    frames = torch.cat([frames, redone + 0.03 * torch.randn(redone.shape, generator=g)])
                    truths = np.concatenate([truths, again[1][half]])
                loss = nn.functional.binary_cross_entropy_with_logits(model(frames), torch.from_numpy(truths))
                loss.backward()  # type: ignore[no-untyped-call]
                optim.step()
                schedule.step()
                optim.zero_grad(set_to_none=True)
                losses.append(loss.item())
            epoch += 1
            yield epoch, sum(losses) / len(losses), model
