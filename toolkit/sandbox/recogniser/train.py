"""Trains the recognisers on clips drawn by the sandbox. Every part resumes where it was interrupted.

1. Labelled clips are drawn. Some are also redrawn by the base model's VAE.
2. The detector ("finder") is trained on corrupted frames.
3. The detector tracks the creatures in all clips, again corrupted.
4. The classifiers ("reader", "mover", "place") are trained on the resulting crops, so that they see the
   detector's errors in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from toolkit.core.files import safetensors_bytes, save_torch, write_atomic
from toolkit.models.pixels import from_bytes
from toolkit.models.precision import autocast
from toolkit.sandbox.recogniser import truth as data
from toolkit.sandbox.recogniser.examples import (
    SHARD,
    ClipDataset,
    Examples,
    clip_labels,
    make_examples,
)
from toolkit.sandbox.recogniser.networks import ATTRIBUTES, OFFSET_SCALE, Recognisers
from toolkit.sandbox.recogniser.recognise import classify_looks, halve_crops
from toolkit.sandbox.recogniser.tracking import pixel_centres
from toolkit.sandbox.world import world

REDRAWN = 40  # clips per shard that the VAE redraws
CHUNK = 16  # clips per file of examples
SAVE_EVERY = 100  # steps
Redraw = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Function that redraws a clip (F, H, W, 3), e.g. by encoding and decoding it with the base model's VAE."""


def draw_shard(folder: Path, index: int, named: Mapping[str, world.Look]) -> None:
    """Draw `SHARD` clips: frames (N, F, H, W, 3), masks (N, MAX_CREATURES, F, H, W) as bits, and labels."""
    frames, masks, said = [], [], []
    for seed in range(data.TRAINING_SEEDS + index * SHARD, data.TRAINING_SEEDS + (index + 1) * SHARD):
        truth = data.sample_clip(seed, named)
        clip, mask = truth.draw()
        frames.append(clip)
        said.append(clip_labels(truth, data.vocabulary(named)))
        masks.append(
            np.concatenate([mask, np.zeros((data.MAX_CREATURES - len(mask), *mask.shape[1:]), np.bool_)])
        )
    np.save(folder / f"masks-{index:03d}.npy", np.packbits(np.stack(masks), axis=-1))
    np.save(folder / f"answers-{index:03d}.npy", np.stack(said))
    np.save(folder / "frames.tmp.npy", np.stack(frames))
    (folder / "frames.tmp.npy").replace(folder / f"frames-{index:03d}.npy")


def redraw_shard(folder: Path, index: int, redraw: Redraw) -> None:
    """Redraw the first `REDRAWN` clips of a shard with `redraw`. Masks and labels stay the same."""
    frames = np.load(folder / f"frames-{index:03d}.npy", mmap_mode="r")
    again = np.stack([redraw(np.array(clip)) for clip in frames[:REDRAWN]])
    np.save(folder / "again.tmp.npy", again)
    (folder / "again.tmp.npy").replace(folder / f"again-{index:03d}.npy")


def fit(
    net: nn.Module, loss_of: Callable[[torch.Generator], Tensor], state_file: Path, *, steps: int, lr: float
) -> Iterator[tuple[int, float]]:
    """Train `net` with AdamW and a cosine schedule, resuming from `state_file`. Yields (step, loss).

    At the end the network has the exponential moving average of its weights.
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
        with autocast("cpu"):
            loss = loss_of(g)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        average.update_parameters(net)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            parts = {"net": net.state_dict(), "average": average.state_dict(), "optim": optim.state_dict()}
            save_torch(parts | {"step": step + 1}, state_file)
        yield step + 1, loss.item()
    net.load_state_dict(average.module.state_dict())
    net.eval()


def finder_loss(model: Recognisers, dataset: ClipDataset, g: torch.Generator) -> Tensor:
    """Loss of the detector on two frames of 16 clips: cross entropy of the mask, and L1 of centre offsets."""
    picks = torch.randint(len(dataset.clips), (16,), generator=g).tolist()
    times = torch.randint(world.NUM_FRAMES, (2,), generator=g).numpy()
    frames, masks = data.corrupt(*dataset.batch(picks, times), g)
    frames, masks = frames.flatten(0, 1), masks.transpose(1, 2).flatten(0, 1)
    out = model.finder(frames.contiguous(memory_format=torch.channels_last)).float()
    x, y = pixel_centres(*frames.shape[2:])
    own, area = masks.float(), masks.sum((2, 3)).clamp(min=1)[..., None, None]
    to_x = (((own * x).sum((2, 3), keepdim=True) / area - x) * own).sum(1)
    to_y = (((own * y).sum((2, 3), keepdim=True) / area - y) * own).sum(1)
    there = own.amax(1)
    miss = (out[:, 1] - to_x / OFFSET_SCALE).abs() + (out[:, 2] - to_y / OFFSET_SCALE).abs()
    which = functional.binary_cross_entropy_with_logits(out[:, 0], there)
    loss: Tensor = which + (miss * there).sum() / there.sum().clamp(min=1)
    return loss


def reader_loss(model: Recognisers, these: Examples, g: torch.Generator) -> Tensor:
    """Cross entropy of look and style on four frames each of 48 creatures."""
    pick = torch.randint(len(these.crops), (48,), generator=g)
    area = these.area[pick]
    times = torch.multinomial(area + 1e-3, 4, generator=g)
    rows = torch.arange(len(pick))[:, None]
    crops = from_bytes(these.crops[pick[:, None], times])
    crops = crops + 0.05 * torch.rand(1, generator=g) * torch.randn(crops.shape, generator=g)
    logits = classify_looks(model, crops, area[rows, times])
    answer = these.answers[pick]
    return torch.stack(
        [
            functional.cross_entropy(logits[key], answer[:, i], label_smoothing=0.02)
            for i, key in enumerate(ATTRIBUTES)
        ]
    ).sum()


def mover_loss(model: Recognisers, these: Examples, g: torch.Generator) -> Tensor:
    """Cross entropy of the actions of 32 creatures."""
    pick = torch.randint(len(these.crops), (32,), generator=g)
    crops = halve_crops(from_bytes(these.crops[pick]))
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


def _load_examples(files: Sequence[Path]) -> Examples:
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
    """Train all recognisers in `folder`, resuming an interrupted run. Yields (part, done, total, loss).

    Args:
        folder: Folder for clips, examples, training states, and finally ``recogniser.safetensors``.
        named: Looks of the named characters.
        clips: Number of clips to draw, in shards of `SHARD`.
        steps: Training steps of finder, reader, mover and place.
        redraw: Redraws a clip (F, H, W, 3); applied to `REDRAWN` clips per shard. Default: no redrawn clips.
        seed: Seed of the networks' initial weights.
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
    model, dataset = Recognisers(data.vocabulary(named)), ClipDataset(folder)
    finder = fit(
        model.finder,
        lambda g: finder_loss(model, dataset, g),
        folder / "finder.state",
        steps=steps[0],
        lr=4e-3,
    )
    yield from (("finder", step, steps[0], loss) for step, loss in finder)
    order = torch.randperm(len(dataset.clips), generator=torch.Generator().manual_seed(seed)).tolist()
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    files = [folder / f"examples-{i:04d}.pt" for i in range(len(chunks))]
    for index, (chunk, file) in enumerate(zip(chunks, files, strict=True)):
        if not file.exists():
            save_torch(vars(make_examples(model, dataset, chunk, torch.Generator().manual_seed(index))), file)
        yield "following", index + 1, len(chunks), 0.0
    these = _load_examples(files)
    parts = (("reader", reader_loss, 3e-3), ("mover", mover_loss, 3e-3), ("place", place_loss, 3e-3))
    for (name, loss_of, lr), total in zip(parts, steps[1:], strict=True):
        net = getattr(model, name)
        training = fit(net, partial(loss_of, model, these), folder / f"{name}.state", steps=total, lr=lr)
        yield from ((name, step, total, loss) for step, loss in training)
    save_recognisers(model, folder / "recogniser.safetensors")


def save_recognisers(model: Recognisers, path: Path) -> None:
    """Save the weights in float16, with the vocabulary as metadata."""
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    write_atomic(path, safetensors_bytes(tensors, {"vocabulary": model.vocabulary.to_json()}))
