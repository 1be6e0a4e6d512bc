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

from toolkit.sandbox import paint, world
from toolkit.sandbox.recognise import Recogniser, to_tensor

LIGHT_EPOCHS, HEAVY_EPOCHS = 6, 3


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """The same look but for one of the three attributes that make a character."""
    key = str(rng.choice(["body", "colour", "accessory"]))
    pools = {"body": list(paint.BODIES), "colour": list(paint.COLOURS), "accessory": list(paint.ACCESSORIES)}
    other = str(rng.choice([v for v in pools[key] if v != getattr(look, key)]))
    return replace(look, **{key: other})


def frame(
    seed: int, named: Mapping[str, world.Look], strangers: Sequence[world.Look]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One frame (64, 96, 3) and who is in it, (names, styles) of 0 and 1.

    Styles of characters and of the scene are independent.
    """
    rng = np.random.default_rng(seed)
    names = list(named)
    truth = np.zeros((len(names), len(world.STYLES)), np.float32)
    actors: list[world.Actor] = []
    for name in rng.permutation(names)[: int(rng.choice([1, 2, 2, 3]))]:
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
    time = np.asarray([rng.uniform(0, 2 * world.PERIOD)], np.float32)
    picture, _ = world.draw(world.place(actors, rng), scene, scene_style, seconds=time, seed=seed)
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


def train_recogniser(
    frames: NDArray[np.uint8], truths: NDArray[np.float32], names: Sequence[str], *, seed: int = 0
) -> Iterator[tuple[int, float, Recogniser]]:
    """Train on frames (N, 64, 96, 3) with truths (N, names, styles); yields (epoch, mean loss, model).

    `LIGHT_EPOCHS` on lightly degraded frames, then `HEAVY_EPOCHS` on heavily degraded ones.
    """
    torch.manual_seed(seed)
    model = Recogniser(names)
    size, epoch = 64, 0
    for epochs, lr, heavy in ((LIGHT_EPOCHS, 4e-3, False), (HEAVY_EPOCHS, 2e-3, True)):
        optim = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
        total = epochs * (len(frames) // size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optim, lr, total_steps=total)
        for _ in range(epochs):
            g = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(frames), generator=g).numpy()
            losses = []
            for start in range(0, len(order) - size + 1, size):
                pick = order[start : start + size]
                logits = model(degrade(to_tensor(frames[pick]), g, heavy))
                loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(truths[pick]))
                loss.backward()  # type: ignore[no-untyped-call]
                optim.step()
                schedule.step()
                optim.zero_grad(set_to_none=True)
                losses.append(loss.item())
            epoch += 1
            yield epoch, sum(losses) / len(losses), model
