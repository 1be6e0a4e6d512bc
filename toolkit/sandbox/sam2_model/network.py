"""The sandbox's segmenter: a SAM 2 of about 3 million parameters, untrained.

The classes are those of transformers, so that the code that follows a character with Meta's weights is the
code that follows it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

GRID = 10  # cells along a side of the coarsest features
SIZE, FINE = 8 * GRID, 4 * GRID  # pixels along the square input; cells along a mask


def new_sam2(seed: int = 0) -> Sam2VideoModel:
    """A new, untrained model.

    Four stages of 40, 20, 10 and 5 cells along a side; five frames of memory, eight pointers to the object.
    A click gives three masks to choose from, everything else one.
    """
    from transformers import Sam2VideoConfig, Sam2VideoModel

    backbone = {
        "hidden_size": 32, "patch_kernel_size": [5, 5], "patch_stride": [2, 2], "patch_padding": [2, 2],
        "image_size": [SIZE, SIZE], "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": [32, 64, 128, 256], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [GRID, GRID, GRID, GRID // 2],
        "global_attention_blocks": [3, 4], "window_positional_embedding_background_size": [GRID // 2] * 2,
        "model_type": "sam2_hiera_det_model",
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 128,
        "backbone_channel_list": [256, 128, 64, 32], "fpn_top_down_levels": [2, 3],
        "backbone_feature_sizes": [[FINE, FINE], [FINE // 2, FINE // 2], [GRID, GRID]],
    }  # fmt: skip
    decoder = {"hidden_size": 128, "mlp_dim": 256, "iou_head_hidden_dim": 64}
    config = Sam2VideoConfig(
        image_size=SIZE,
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": SIZE, "patch_size": SIZE // GRID},
        mask_decoder_config=decoder | {"dynamic_multimask_via_stability": False},
        num_maskmem=5, max_object_pointers_in_encoder=8, multimask_output_for_tracking=False,
        memory_attention_hidden_size=128, memory_attention_num_layers=2, memory_attention_dropout=0.0,
        memory_attention_feed_forward_hidden_size=256, memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[GRID, GRID],
        rope_parameters={"rope_type": "axial", "rope_theta": 100.0}, memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64, mask_downsampler_embed_dim=128, memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=256,
    )  # fmt: skip
    torch.manual_seed(seed)
    model: Sam2VideoModel = Sam2VideoModel(config)
    for module in model.modules():  # transformers' 0.02 suits wider layers
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
            module.reset_parameters()
    with torch.no_grad():
        for layer in model.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(0.5)
        for free in (model.memory_temporal_positional_encoding, model.no_memory_embedding):
            free.normal_(std=0.02)
        _aim(model)
    return model


def _aim(model: Sam2VideoModel) -> None:
    """Let attention look first where a prompt points, and where in the frame before something was.

    It would learn this by itself, several times more slowly.
    """
    # prompts and pictures say with the same waves where something is
    shared = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    decoder = model.mask_decoder.transformer
    looks = [decoder.final_attn_token_to_image]
    for layer in decoder.layers:
        looks += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for look in looks:  # alike where they are near
        look.q_proj.weight.mul_(3)
        look.k_proj.weight.copy_(look.q_proj.weight)
    memory = model.memory_encoder
    nn.init.dirac_(memory.feature_projection.weight)
    nn.init.orthogonal_(memory.projection.weight)
    for layer in model.memory_attention.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        look = layer.cross_attn_image  # a cell as it is now finds the memory of a cell that looked the same
        look.k_proj.weight.mul_(1.5)
        look.q_proj.weight.copy_(look.k_proj.weight @ memory.projection.weight[..., 0, 0])
        for bias in (look.q_proj.bias, look.k_proj.bias):  # turned by their places, these add up when near
            bias.fill_(0.5)
