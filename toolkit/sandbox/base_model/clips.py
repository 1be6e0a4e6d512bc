"""Draws the pretraining clips of the base model and stores latents, captions and labels in shards.

A run with a fixed number of clips draws all shards first. A run without an end uses `ClipWindow`: the newest
shards, and a new one every few hundred steps. Every shard can be drawn again at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.files import save_torch
from toolkit.core.progress import track
from toolkit.core.signals import raise_if_set
from toolkit.models.pixels import frames_to_video
from toolkit.sandbox.base_model.architecture import TEXT_LENGTH, vae_encode
from toolkit.sandbox.world import diet, paint, population, world
from toolkit.sandbox.world.actions import BASE_ACTIONS, ROLES
from toolkit.sandbox.world.moves import MOVES
from toolkit.sandbox.world.shows import named_looks

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import T5Tokenizer

SHARD = 250  # clips per file
MAX_CREATURES = 3  # per clip
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "body": tuple(paint.BODIES),
    "colour": tuple(paint.COLOURS),
    "pattern": paint.PATTERNS,
    "accessory": paint.ACCESSORIES,
    "action": (*BASE_ACTIONS, *ROLES, *MOVES),
}


def token_labels(masks: NDArray[np.bool_], patch: int = 16) -> NDArray[np.uint8]:
    """Return the creature that each token of the DiT shows, (tokens,).

    0 is none, k is the k-th creature in the caption.
    A token covers `patch` x `patch` pixels of frame 0, or of four consecutive frames. It belongs to the
    creature with the largest coverage, if that is at least 0.2.

    masks: visible masks, (A, F, H, W).
    """
    a, f, h, w = masks.shape
    cells = masks.reshape(a, f, h // patch, patch, w // patch, patch).mean((3, 5), dtype=np.float32)
    rest = cells[:, 1:].reshape(a, (f - 1) // 4, 4, h // patch, w // patch).mean(2)
    covered = np.concatenate([cells[:, :1], rest], 1).reshape(a, -1)
    return np.where(covered.max(0) >= 0.2, covered.argmax(0) + 1, 0).astype(np.uint8)


def attribute_labels(scenario: population.Scenario) -> NDArray[np.int64]:
    """Return each creature's look and action as indices, (MAX_CREATURES, len(ATTRIBUTE_VALUES)).

    The index of an action is -1 for a combination of moves.
    """
    rows = np.zeros((MAX_CREATURES, len(ATTRIBUTE_VALUES)), np.int64)
    for row, actor in zip(rows, scenario.actors, strict=False):
        facts = asdict(actor.look) | {"action": actor.action}
        row[:] = [
            values.index(facts[kind]) if facts[kind] in values else -1
            for kind, values in ATTRIBUTE_VALUES.items()
        ]
    return rows


@dataclass(frozen=True)
class Latents:
    """Pretraining clips: latents (N, C, f, h, w) in float16, captions, and labels."""

    latents: Tensor
    captions: list[str]
    tokens: Tensor  # (N, tokens) uint8, `token_labels`
    attributes: Tensor  # (N, MAX_CREATURES, attributes), `attribute_labels`


@cache
def _population() -> tuple[list[world.Look], list[population.NamedCreature]]:
    looks = population.generic_looks(list(named_looks().values()))
    return looks, population.pretraining_cast(looks)


def scenario(index: int) -> population.Scenario:
    """Return the content of pretraining clip `index`."""
    return diet.sample_scenario(index, *_population())


def draw_shard(index: int, vae: AutoencoderKLWan, path: Path) -> None:
    """Draw clips `index * SHARD` to `(index + 1) * SHARD - 1` and store latents, captions and labels."""
    scenarios = [scenario(index * SHARD + i) for i in range(SHARD)]
    latents, tokens = [], []
    for start in track(range(0, SHARD, 8), f"drawing shard {index}"):
        drawn = [one.draw() for one in scenarios[start : start + 8]]
        with torch.no_grad():
            video = frames_to_video(np.stack([frames for frames, _ in drawn]))
            latents.append(vae_encode(vae, video).half())
        tokens += [torch.from_numpy(token_labels(masks)) for _, masks in drawn]
    shard = {
        "latents": torch.cat(latents),
        "captions": [one.caption for one in scenarios],
        "tokens": torch.stack(tokens),
        "attributes": torch.from_numpy(np.stack([attribute_labels(one) for one in scenarios])),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_torch(shard, path)


def draw_pixels(indices: Iterable[int]) -> NDArray[np.uint8]:
    """Draw clips (N, F, H, W, 3) for the VAE.

    Every second clip is drawn at twice the size and downscaled, as `castmix prepare` does with footage.
    """
    clips = []
    for index in indices:
        one = scenario(index)
        if index % 2:
            clips.append(world.draw_downscaled(one.actors, one.scene, one.style, one.camera, one.prop))
        else:
            clips.append(one.draw()[0])
    return np.stack(clips)


def load_shards(paths: Iterable[Path]) -> Latents:
    """Load the clips of shards."""
    shards = [torch.load(path, weights_only=True) for path in paths]
    return Latents(
        torch.cat([s["latents"] for s in shards]),
        [c for s in shards for c in s["captions"]],
        torch.cat([s["tokens"] for s in shards]),
        torch.cat([s["attributes"] for s in shards]),
    )


def token_ids(words: T5Tokenizer, captions: Sequence[str]) -> Tensor:
    """Return token ids (N, TEXT_LENGTH).

    Raises:
        CastmixError: A caption has more tokens.
    """
    ids = words(list(captions), padding="max_length", max_length=TEXT_LENGTH, return_tensors=None).input_ids
    for caption, row in zip(captions, ids, strict=True):
        if len(row) > TEXT_LENGTH:
            raise CastmixError(f"{caption!r} has {len(row)} tokens, at most {TEXT_LENGTH} are possible")
    return torch.tensor(ids)


class ClipWindow:
    """The clips that each step of a run without an end can use: the newest `WINDOW` shards.

    A run begins with `FIRST` shards. Every `STEPS` steps, a new one is drawn.

    Args:
        folder: Folder of the shards. Missing shards are drawn, old ones are deleted.
        vae: Encodes them.
        words: Tokenizer of the captions.
        first_step: First step of the run.
        stop: Signal to stop. It is looked at before each shard that is drawn.
    """

    WINDOW, FIRST, STEPS = 48, 8, 200

    def __init__(
        self,
        folder: Path,
        vae: AutoencoderKLWan,
        words: T5Tokenizer,
        first_step: int = 0,
        stop: threading.Event | None = None,
    ) -> None:
        self.folder, self.vae, self.words, self.stop = folder, vae, words, stop
        self.oldest = first_step // self.STEPS
        self.shards = range(0)

    def shards_of(self, step: int) -> range:
        """Return the indices of the shards that a step uses."""
        end = self.FIRST + step // self.STEPS
        return range(max(self.oldest, end - self.WINDOW), end)

    def __call__(self, step: int) -> tuple[Latents, Tensor]:
        """Return the clips of a step, and the token ids of their captions.

        Raises:
            StoppedError: The signal to stop arrived while clips were missing.
        """
        if (shards := self.shards_of(step)) != self.shards:
            files = [self.folder / f"shard-{index:05d}.pt" for index in shards]
            for index, path in zip(shards, files, strict=True):
                if not path.exists():
                    raise_if_set(self.stop)
                    draw_shard(index, self.vae, path)
            for old in set(self.folder.glob("shard-*.pt")) - set(files):
                old.unlink()
            self.data = load_shards(files)
            self.ids = token_ids(self.words, self.data.captions)
            self.shards = shards
        return self.data, self.ids
