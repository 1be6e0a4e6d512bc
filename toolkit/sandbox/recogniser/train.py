"""Trains the recognisers on clips drawn for them; every part of it goes on where it stopped.

Clips are drawn, the finder learns to tell creatures from the scene and from each other, then it follows the
creatures through all clips (spoiled by `spoil`, some of them first redrawn by the base's VAE), and what it
cuts out is what the reader and the mover learn from, so they know its faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from toolkit.core.files import safetensors_bytes, write_atomic
from toolkit.sandbox.recogniser import truth as data
from toolkit.sandbox.recogniser.examples import SHARD, Drawn, Examples, answers, examples, from_bytes
from toolkit.sandbox.recogniser.networks import OFFSET, READ, Recognisers
from toolkit.sandbox.recogniser.recognise import read_looks, small
from toolkit.sandbox.recogniser.tracking import pixels
from toolkit.sandbox.world import world

REDRAWN, CHUNK, SAVE_EVERY = 40, 16, 100  # clips a shard, clips a file of examples, steps
Redraw = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""A clip (F, H, W, 3) as the base's VAE, or the base itself, draws it again."""


def _save(value: Any, path: Path) -> None:
    torch.save(value, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def draw_shard(folder: Path, index: int, named: Mapping[str, world.Look]) -> None:
    """Draw `SHARD` clips: frames (N, F, H, W, 3), masks (N, MOST, F, H, W) as packed bits, and `answers`."""
    frames, masks, said = [], [], []
    for seed in range(data.TRAINING + index * SHARD, data.TRAINING + (index + 1) * SHARD):
        truth = data.truth(seed, named)
        clip, mask = truth.draw()
        frames.append(clip)
        said.append(answers(truth, data.vocabulary(named)))
        masks.append(np.concatenate([mask, np.zeros((data.MOST - len(mask), *mask.shape[1:]), np.bool_)]))
    np.save(folder / f"masks-{index:03d}.npy", np.packbits(np.stack(masks), axis=-1))
    np.save(folder / f"answers-{index:03d}.npy", np.stack(said))
    np.save(folder / "frames.tmp.npy", np.stack(frames))
    (folder / "frames.tmp.npy").replace(folder / f"frames-{index:03d}.npy")


def redraw_shard(folder: Path, index: int, redraw: Redraw) -> None:
    """Redraw the clips of a shard, each by `redraw`; the masks stay."""
    frames = np.load(folder / f"frames-{index:03d}.npy", mmap_mode="r")
    again = np.stack([redraw(np.array(clip)) for clip in frames[:REDRAWN]])
    np.save(folder / "again.tmp.npy", again)
    (folder / "again.tmp.npy").replace(folder / f"again-{index:03d}.npy")


def fit(
    net: nn.Module, loss_of: Callable[[torch.Generator], Tensor], state_file: Path, *, steps: int, lr: float
) -> Iterator[tuple[int, float]]:
    """Train `net` by AdamW with a cosine schedule, going on from `state_file`; yields (step, loss).

    In the end the net has the average of its late weights.
    """
    smooth = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=smooth)
    optim = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optim.load_state_dict(state["optim"])
        start = int(state["step"])
    net.train()
    for step in range(start, steps):
        g = torch.Generator().manual_seed(step)
        for group in optim.param_groups:
            group["lr"] = (
                lr * min(1, (step + 1) / 40) * (0.01 + 0.99 * math.cos(math.pi / 2 * step / steps) ** 2)
            )
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(g)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        average.update_parameters(net)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            parts = {"net": net.state_dict(), "average": average.state_dict(), "optim": optim.state_dict()}
            _save(parts | {"step": step + 1}, state_file)
        yield step + 1, loss.item()
    net.load_state_dict(average.module.state_dict())
    net.eval()


def finder_loss(model: Recognisers, drawn: Drawn, g: torch.Generator) -> Tensor:
    """How badly creatures of 16 clips, two frames each, are told from the scene and from each other."""
    picks = torch.randint(len(drawn.clips), (16,), generator=g).tolist()
    times = torch.randint(world.NUM_FRAMES, (2,), generator=g).numpy()
    frames, masks = data.spoil(*drawn.batch(picks, times), g)
    frames, masks = frames.flatten(0, 1), masks.transpose(1, 2).flatten(0, 1)
    out = model.finder(frames.contiguous(memory_format=torch.channels_last)).float()
    x, y = pixels(*frames.shape[2:])
    own, area = masks.float(), masks.sum((2, 3)).clamp(min=1)[..., None, None]
    to_x = (((own * x).sum((2, 3), keepdim=True) / area - x) * own).sum(1)
    to_y = (((own * y).sum((2, 3), keepdim=True) / area - y) * own).sum(1)
    there = own.amax(1)
    miss = (out[:, 1] - to_x / OFFSET).abs() + (out[:, 2] - to_y / OFFSET).abs()
    which = functional.binary_cross_entropy_with_logits(out[:, 0], there)
    loss: Tensor = which + (miss * there).sum() / there.sum().clamp(min=1)
    return loss


def reader_loss(model: Recognisers, these: Examples, g: torch.Generator) -> Tensor:
    """Cross entropy of looks and style, each read in four frames of 32 creatures."""
    pick = torch.randint(len(these.crops), (48,), generator=g)
    area = these.area[pick]
    times = torch.multinomial(area + 1e-3, 4, generator=g)
    rows = torch.arange(len(pick))[:, None]
    crops = from_bytes(these.crops[pick[:, None], times])
    crops = crops + 0.05 * torch.rand(1, generator=g) * torch.randn(crops.shape, generator=g)
    logits = read_looks(model, crops, area[rows, times])
    answer = these.answers[pick]
    return torch.stack(
        [
            functional.cross_entropy(logits[key], answer[:, i], label_smoothing=0.02)
            for i, key in enumerate(READ)
        ]
    ).sum()


def mover_loss(model: Recognisers, these: Examples, g: torch.Generator) -> Tensor:
    """Cross entropy of the actions of 32 creatures."""
    pick = torch.randint(len(these.crops), (32,), generator=g)
    crops = small(from_bytes(these.crops[pick]))
    geometry = these.geometry[pick] * (1 + 0.1 * torch.randn(len(pick), 1, 1, generator=g))
    geometry = geometry + 0.02 * torch.rand(len(pick), 1, 1, generator=g) * torch.randn(
        geometry.shape, generator=g
    )
    logits = model.mover(crops, geometry)
    return functional.cross_entropy(logits, these.answers[pick, -1], label_smoothing=0.02)


def place_loss(model: Recognisers, these: Examples, g: torch.Generator) -> Tensor:
    """Cross entropy of scene and scene style of 32 frames."""
    pick = torch.randint(len(these.empty), (32,), generator=g)
    frame = from_bytes(these.empty[pick, torch.randint(3, (32,), generator=g)])
    logits = model.place(frame)
    answer = these.places[pick]
    return sum(
        (
            functional.cross_entropy(logits[key], answer[:, i])
            for i, key in enumerate(("scene", "scene_style"))
        ),
        torch.zeros(()),
    )


def _joined(files: Sequence[Path]) -> Examples:
    parts = [torch.load(file, weights_only=True) for file in files]
    return Examples(**{key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def train_recognisers(
    folder: Path,
    named: Mapping[str, world.Look],
    *,
    clips: int = 6000,
    steps: tuple[int, int, int, int] = (1900, 2400, 2200, 400),
    redraw: Redraw | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, int, int, float]]:
    """Train all recognisers in `folder`, going on where that stopped; yields (part, done, of, loss).

    Args:
        folder: Keeps everything: drawn clips, examples, states, and in the end `recogniser.safetensors`.
        named: The named characters.
        clips: How many clips to draw, in shards of `SHARD`.
        steps: Of finder, reader, mover and place.
        redraw: Draws a clip (F, H, W, 3) again as the base's VAE does; `REDRAWN` clips a shard go through it.
        seed: Of the networks' first weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = max(1, clips // SHARD)
    for index in range(shards):
        if not (folder / f"frames-{index:03d}.npy").exists():
            draw_shard(folder, index, named)
        yield "drawing", index + 1, shards, 0.0
    for index in range(shards if redraw else 0):
        if redraw and not (folder / f"again-{index:03d}.npy").exists():
            redraw_shard(folder, index, redraw)
        yield "redrawing", index + 1, shards, 0.0
    torch.manual_seed(seed)
    model, drawn = Recognisers(data.vocabulary(named)), Drawn(folder)
    finder = fit(
        model.finder, lambda g: finder_loss(model, drawn, g), folder / "finder.state", steps=steps[0], lr=4e-3
    )
    yield from (("finder", step, steps[0], loss) for step, loss in finder)
    order = torch.randperm(len(drawn.clips), generator=torch.Generator().manual_seed(seed)).tolist()
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    files = [folder / f"examples-{i:04d}.pt" for i in range(len(chunks))]
    for index, (chunk, file) in enumerate(zip(chunks, files, strict=True)):
        if not file.exists():
            _save(vars(examples(model, drawn, chunk, torch.Generator().manual_seed(index))), file)
        yield "following", index + 1, len(chunks), 0.0
    these = _joined(files)
    parts = (("reader", reader_loss, 3e-3), ("mover", mover_loss, 3e-3), ("place", place_loss, 3e-3))
    for (name, loss_of, lr), total in zip(parts, steps[1:], strict=True):
        net = getattr(model, name)
        training = fit(net, partial(loss_of, model, these), folder / f"{name}.state", steps=total, lr=lr)
        yield from ((name, step, total, loss) for step, loss in training)
    save_recognisers(model, folder / "recogniser.safetensors")


def save_recognisers(model: Recognisers, path: Path) -> None:
    """Save weights in 16 bits, and the vocabulary."""
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    write_atomic(path, safetensors_bytes(tensors, {"vocabulary": model.vocabulary.to_json()}))
