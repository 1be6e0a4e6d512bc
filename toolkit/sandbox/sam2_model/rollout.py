"""SAM 2 follows objects, with gradients: what transformers' video forward does under inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.sandbox.sam2_model.network import FINE, GRID, SIZE

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

ABSENT = -1024.0  # the logit of a mask of nobody, as transformers has it


def settle(model: Sam2VideoModel, seen: Seen) -> None:
    """Let features that come out of memory be as large as those `seen`, which the decoder knows.

    To be done once, when the image encoder has learned and the memory begins to.
    """
    with torch.no_grad():
        norm, features = model.memory_attention.layer_norm, seen.top.flatten(0, 1)
        norm.weight.copy_(features.std(0))
        norm.bias.copy_(features.mean(0) + model.no_memory_embedding[0, 0])


@dataclass(frozen=True)
class Seen:
    """What the image encoder made of N frames.

    `top` (cells, N, C) are the coarsest features, `place` where they are; `fine` finer ones, (N, C, h, w).
    """

    top: Tensor
    place: Tensor
    fine: tuple[Tensor, Tensor]

    def at(self, rows: Tensor) -> Seen:
        """Those of some frames."""
        return Seen(self.top[:, rows], self.place[:, rows], (self.fine[0][rows], self.fine[1][rows]))


@dataclass(frozen=True)
class Drawn:
    """What the mask decoder says of N objects in one frame: M masks each.

    `logits` (N, M, FINE, FINE), `quality` (N, M) their expected IoU, `tokens` (N, M, C), `presence` (N, 1)
    the logit of being there at all.
    """

    logits: Tensor
    quality: Tensor
    tokens: Tensor
    presence: Tensor


@dataclass(frozen=True)
class Asked:
    """Points in the model's pixels, (N, P, 2), and labels (N, P), int32.

    1 is the object, 0 is not; 2 and 3 are the corners of a box.
    """

    points: Tensor
    labels: Tensor

    @property
    def many(self) -> bool:
        """Whether three masks are drawn: for one click alone."""
        return self.labels.shape[1] == 1 and bool((self.labels >= 0).all())


class Scout(nn.Module):
    """Teaches the image encoder from the first step on, as long as the mask decoder cannot; not kept.

    `Seen` -> (N, 3, FINE, FINE): is some creature here (logit), and how far is its middle, in tenths of the
    side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in (16, 32, 128))

    def forward(self, seen: Seen) -> Tensor:
        """See the class."""
        said = torch.zeros(())
        for head, level in zip(self.heads, (*seen.fine, _square(seen.top)), strict=True):
            said = said + functional.interpolate(head(level), size=(FINE, FINE), mode="bilinear")
        return said


def encode(model: Sam2VideoModel, pixels: Tensor) -> Seen:
    """Features of frames (N, 3, SIZE, SIZE) as `toolkit.segmentation.sam2.to_pixels` makes them."""
    out = model.get_image_features(pixels, return_dict=True)
    sizes = model.backbone_feature_sizes
    fine = [
        x.permute(1, 2, 0).reshape(x.shape[1], x.shape[2], *size)
        for x, size in zip(out.fpn_hidden_states[:2], sizes[:2], strict=True)
    ]
    place = out.fpn_position_encoding[-1].expand(-1, len(pixels), -1)
    return Seen(out.fpn_hidden_states[-1], place, (fine[0], fine[1]))


def draw(model: Sam2VideoModel, top: Tensor, fine: Sequence[Tensor], asked: Asked | None) -> Drawn:
    """Masks of N objects from their frames' features: `top` (cells, N, C) knows the memory already."""
    count = top.shape[1]
    if asked is None:
        nowhere = torch.full((count, 1), -1, dtype=torch.int32)
        asked = Asked(torch.zeros(count, 1, 2), nowhere)
    sparse, dense = model.prompt_encoder(asked.points[:, None], asked.labels[:, None], None, None)
    place = model.get_image_wide_positional_embeddings().expand(count, -1, -1, -1)
    masks, quality, tokens, presence = model.mask_decoder(
        image_embeddings=_square(top),
        image_positional_embeddings=place,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=asked.many,
        high_resolution_features=list(fine),
    )
    return Drawn(masks[:, 0], quality[:, 0], tokens[:, 0], presence[:, 0])


def remember(model: Sam2VideoModel, top: Tensor, logits: Tensor, there: Tensor, sure: bool) -> Tensor:
    """The memory (cells, N, 64) of a frame with masks of these logits (N, FINE, FINE), where `there` (N, 1).

    sure: of a prompted frame, whose mask counts as it is.
    """
    logits = torch.where(there[..., None], logits, ABSENT)
    large = functional.interpolate(logits[:, None].float(), size=(SIZE, SIZE), mode="bilinear")
    large = functional.interpolate(large, size=(16 * GRID, 16 * GRID), mode="bilinear", antialias=True)
    mask = (large > 0).float() if sure else large.sigmoid()
    config = model.config
    mask = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
    memory, _ = model.memory_encoder(_square(top), mask)
    hidden = (~there).to(memory.dtype)[..., None, None]
    memory = memory + hidden * model.occlusion_spatial_embedding_parameter[..., None, None]
    return torch.as_tensor(memory.flatten(2).permute(2, 0, 1))


def recall(
    model: Sam2VideoModel, seen: Seen, memories: Sequence[Tensor], pointers: Sequence[Tensor]
) -> Tensor:
    """The coarsest features (cells, N, C) of a frame, told by memory where the objects are.

    `memories` (cells, N, 64) and `pointers` (N, C) are of the prompted frame and of all since, in order.
    """
    from transformers.models.sam2_video.modeling_sam2_video import get_1d_sine_pe

    now, slots, most = len(memories), model.num_maskmem, model.config.max_object_pointers_in_encoder
    grid = model.memory_encoder.position_encoding(
        (1, model.mem_dim, GRID, GRID), memories[0].device, torch.float32
    )
    grid = grid.flatten(2).permute(2, 0, 1)
    times = model.memory_temporal_positional_encoding
    chosen = [(0, memories[0])] + [(k, memories[now - k]) for k in range(min(slots, now) - 1, 0, -1)]
    values = [memory for _, memory in chosen]
    places = [(grid + times[k - 1]).expand_as(values[0]) for k, _ in chosen]
    ages = [now, *range(1, min(most, now))]
    tokens = torch.stack([pointers[now - age] for age in ages])
    age = torch.tensor(ages, dtype=torch.float32) / (most - 1)
    when = model.temporal_positional_encoding_projection_layer(get_1d_sine_pe(age, dim=model.hidden_dim))
    parts = model.hidden_dim // model.mem_dim
    tokens = tokens.view(*tokens.shape[:2], parts, model.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
    when = when[:, None].expand(-1, tokens.shape[1], -1).repeat_interleave(parts, 0)
    fused = model.memory_attention(
        current_vision_features=seen.top,
        memory=torch.cat([*values, tokens.to(values[0].dtype)]),
        current_vision_position_embeddings=seen.place,
        memory_posision_embeddings=torch.cat([*places, when]),
        num_object_pointer_tokens=len(tokens),
    )
    return torch.as_tensor(fused.squeeze(0).transpose(0, 1))


def follow(
    model: Sam2VideoModel, seen: Seen, rows: Tensor, asked: Asked, present: Tensor | None = None
) -> list[Drawn]:
    """Follow N objects through T frames from the prompt in their first.

    Args:
        model: The model.
        seen: Features of all frames.
        rows: (N, T): which of them are the frames of each object.
        asked: The prompts.
        present: (N, T), whether it is to be seen, for training; else the model's own opinion counts.
    """
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    drawn = []
    for t in range(rows.shape[1]):
        now = seen.at(rows[:, t])
        top = recall(model, now, memories, pointers) if t else now.top + model.no_memory_embedding
        out = draw(model, top, now.fine, None if t else asked)
        drawn.append(out)
        if t + 1 == rows.shape[1]:
            break
        best = out.quality.argmax(1)
        each = torch.arange(len(best))
        there = out.presence > 0 if present is None else present[:, t, None]
        pointer = model.object_pointer_proj(out.tokens[each, best])
        pointers.append(torch.where(there, pointer, model.no_object_pointer.to(pointer.dtype)))
        memories.append(remember(model, now.top, out.logits[each, best], there, sure=t == 0))
    return drawn


def _square(top: Tensor) -> Tensor:
    """(cells, N, C) -> (N, C, GRID, GRID)."""
    return top.permute(1, 2, 0).reshape(top.shape[1], top.shape[2], GRID, GRID)
