"""Tracks objects with SAM 2, with gradients.

The steps are those of transformers' video model, whose own forward runs in inference mode only: encode the
image, attend to the memory, decode masks, encode them into the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.sandbox.sam2_model.network import GRID, IMAGE_SIZE, MASK_SIZE

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

ABSENT_LOGIT = -1024.0  # mask logit of an absent object, as in transformers


def calibrate_memory(model: Sam2VideoModel, features: ImageFeatures) -> None:
    """Set the output norm of the memory attention to the statistics of the image features.

    The mask decoder is trained on image features. Call this once, after the image encoder has been trained
    and before the memory is.
    """
    with torch.no_grad():
        norm, values = model.memory_attention.layer_norm, features.top.flatten(0, 1)
        norm.weight.copy_(values.std(0))
        norm.bias.copy_(values.mean(0) + model.no_memory_embedding[0, 0])


@dataclass(frozen=True)
class ImageFeatures:
    """The image encoder's features of N frames.

    Attributes:
        top: Coarsest features, (GRID * GRID, N, C).
        place: Their positional encoding, of the same shape.
        fine: Two finer feature maps, (N, C, h, w).
    """

    top: Tensor
    place: Tensor
    fine: tuple[Tensor, Tensor]

    def select(self, rows: Tensor) -> ImageFeatures:
        """Return the features of the frames `rows`."""
        return ImageFeatures(self.top[:, rows], self.place[:, rows], (self.fine[0][rows], self.fine[1][rows]))


@dataclass(frozen=True)
class MaskOutput:
    """The mask decoder's output for N objects in one frame, with M candidate masks each.

    Attributes:
        logits: Mask logits, (N, M, MASK_SIZE, MASK_SIZE).
        quality: Predicted IoU, (N, M).
        tokens: Mask tokens, (N, M, C).
        presence: Logit that the object is in the frame, (N, 1).
    """

    logits: Tensor
    quality: Tensor
    tokens: Tensor
    presence: Tensor


@dataclass(frozen=True)
class PointPrompts:
    """Point and box prompts of N objects.

    Attributes:
        points: Coordinates in pixels of the model's input, (N, P, 2).
        labels: int32 (N, P). 1: on the object; 0: not on it; 2 and 3: two opposite corners of a box; -1:
            none.
    """

    points: Tensor
    labels: Tensor

    @property
    def multimask(self) -> bool:
        """Whether the decoder predicts three candidate masks: for a single click only."""
        return self.labels.shape[1] == 1 and bool((self.labels >= 0).all())


class AuxiliaryHead(nn.Module):
    """Auxiliary head that trains the image encoder while the mask decoder is still untrained.

    It maps `ImageFeatures` to (N, 3, MASK_SIZE, MASK_SIZE): the logit that a pixel shows any creature, and
    the offset (x, y) to that creature's centre in tenths of the image side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in (16, 32, 128))

    def forward(self, features: ImageFeatures) -> Tensor:
        """Return logits and offsets; see the class."""
        output = torch.zeros(())
        for head, level in zip(self.heads, (*features.fine, _square(features.top)), strict=True):
            output = output + functional.interpolate(
                head(level), size=(MASK_SIZE, MASK_SIZE), mode="bilinear"
            )
        return output


def encode_images(model: Sam2VideoModel, pixels: Tensor) -> ImageFeatures:
    """Encode frames (N, 3, IMAGE_SIZE, IMAGE_SIZE), normalised by `segmentation.sam2.to_pixels`."""
    out = model.get_image_features(pixels, return_dict=True)
    sizes = model.backbone_feature_sizes
    fine = [
        x.permute(1, 2, 0).reshape(x.shape[1], x.shape[2], *size)
        for x, size in zip(out.fpn_hidden_states[:2], sizes[:2], strict=True)
    ]
    place = out.fpn_position_encoding[-1].expand(-1, len(pixels), -1)
    return ImageFeatures(out.fpn_hidden_states[-1], place, (fine[0], fine[1]))


def decode_masks(
    model: Sam2VideoModel, top: Tensor, fine: Sequence[Tensor], prompts: PointPrompts | None
) -> MaskOutput:
    """Predict the masks of N objects.

    Args:
        model: The model.
        top: Coarsest features after memory attention, (GRID * GRID, N, C).
        fine: The two finer feature maps.
        prompts: The prompts, or None in frames after the prompted one.
    """
    count = top.shape[1]
    if prompts is None:
        nowhere = torch.full((count, 1), -1, dtype=torch.int32)
        prompts = PointPrompts(torch.zeros(count, 1, 2), nowhere)
    sparse, dense = model.prompt_encoder(prompts.points[:, None], prompts.labels[:, None], None, None)
    place = model.get_image_wide_positional_embeddings().expand(count, -1, -1, -1)
    masks, quality, tokens, presence = model.mask_decoder(
        image_embeddings=_square(top),
        image_positional_embeddings=place,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=prompts.multimask,
        high_resolution_features=list(fine),
    )
    return MaskOutput(masks[:, 0], quality[:, 0], tokens[:, 0], presence[:, 0])


def encode_memory(model: Sam2VideoModel, top: Tensor, logits: Tensor, there: Tensor, sure: bool) -> Tensor:
    """Encode a frame's features and masks into memory features, (GRID * GRID, N, 64).

    Args:
        model: The model.
        top: Coarsest features of the frame.
        logits: Mask logits, (N, MASK_SIZE, MASK_SIZE).
        there: Whether the object is in the frame, (N, 1) bool.
        sure: True for the prompted frame: its mask is binarised.
    """
    logits = torch.where(there[..., None], logits, ABSENT_LOGIT)
    large = functional.interpolate(logits[:, None].float(), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
    large = functional.interpolate(large, size=(16 * GRID, 16 * GRID), mode="bilinear", antialias=True)
    mask = (large > 0).float() if sure else large.sigmoid()
    config = model.config
    mask = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
    memory, _ = model.memory_encoder(_square(top), mask)
    hidden = (~there).to(memory.dtype)[..., None, None]
    memory = memory + hidden * model.occlusion_spatial_embedding_parameter[..., None, None]
    return torch.as_tensor(memory.flatten(2).permute(2, 0, 1))


def attend_to_memory(
    model: Sam2VideoModel, features: ImageFeatures, memories: Sequence[Tensor], pointers: Sequence[Tensor]
) -> Tensor:
    """Condition a frame's coarsest features on the memory: (GRID * GRID, N, C).

    Args:
        model: The model.
        features: Features of the frame.
        memories: Memory features of all frames so far, the prompted one first, (GRID * GRID, N, 64) each.
        pointers: Object pointers of the same frames, (N, C) each.
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
        current_vision_features=features.top,
        memory=torch.cat([*values, tokens.to(values[0].dtype)]),
        current_vision_position_embeddings=features.place,
        memory_posision_embeddings=torch.cat([*places, when]),
        num_object_pointer_tokens=len(tokens),
    )
    return torch.as_tensor(fused.squeeze(0).transpose(0, 1))


def track_objects(
    model: Sam2VideoModel,
    features: ImageFeatures,
    rows: Tensor,
    prompts: PointPrompts,
    present: Tensor | None = None,
) -> list[MaskOutput]:
    """Track N objects through T frames, from a prompt in the first frame.

    Args:
        model: The model.
        features: Features of all frames.
        rows: Indices of each object's frames, (N, T).
        prompts: The prompts.
        present: True visibility of the objects, (N, T), for training. Default: the model's prediction.

    Returns:
        The decoder's output for each of the T frames.
    """
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    outputs = []
    for t in range(rows.shape[1]):
        now = features.select(rows[:, t])
        top = attend_to_memory(model, now, memories, pointers) if t else now.top + model.no_memory_embedding
        out = decode_masks(model, top, now.fine, None if t else prompts)
        outputs.append(out)
        if t + 1 == rows.shape[1]:
            break
        best = out.quality.argmax(1)
        each = torch.arange(len(best))
        there = out.presence > 0 if present is None else present[:, t, None]
        pointer = model.object_pointer_proj(out.tokens[each, best])
        pointers.append(torch.where(there, pointer, model.no_object_pointer.to(pointer.dtype)))
        memories.append(encode_memory(model, now.top, out.logits[each, best], there, sure=t == 0))
    return outputs


def _square(top: Tensor) -> Tensor:
    """Reshape features from (GRID * GRID, N, C) to (N, C, GRID, GRID)."""
    return top.permute(1, 2, 0).reshape(top.shape[1], top.shape[2], GRID, GRID)
