"""Builds the sandbox's untrained SAM 2, a model of about 3 million parameters.

It uses the classes of transformers. The same code therefore runs Meta's weights and the sandbox's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

GRID = 10  # side of the coarsest feature map
IMAGE_SIZE = 8 * GRID  # side of the square input in pixels
MASK_SIZE = 4 * GRID  # side of the predicted masks


def new_sam2(seed: int = 0) -> Sam2VideoModel:
    """Create an untrained model with random weights of this seed.

    The image encoder has four stages with feature maps of side 40, 20, 10 and 5. The memory holds five frames
    and eight object pointers. A single click yields three candidate masks, every other prompt one.
    """
    from transformers import Sam2VideoConfig, Sam2VideoModel

    backbone = {
        "hidden_size": 32, "patch_kernel_size": [5, 5], "patch_stride": [2, 2], "patch_padding": [2, 2],
        "image_size": [IMAGE_SIZE, IMAGE_SIZE], "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": [32, 64, 128, 256], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [GRID, GRID, GRID, GRID // 2],
        "global_attention_blocks": [3, 4], "window_positional_embedding_background_size": [GRID // 2] * 2,
        "model_type": "sam2_hiera_det_model",
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 128,
        "backbone_channel_list": [256, 128, 64, 32], "fpn_top_down_levels": [2, 3],
        "backbone_feature_sizes": [[MASK_SIZE, MASK_SIZE], [MASK_SIZE // 2, MASK_SIZE // 2], [GRID, GRID]],
    }  # fmt: skip
    decoder = {"hidden_size": 128, "mlp_dim": 256, "iou_head_hidden_dim": 64}
    config = Sam2VideoConfig(
        image_size=IMAGE_SIZE,
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": 128, "image_size": IMAGE_SIZE, "patch_size": IMAGE_SIZE // GRID
        },
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
    for module in model.modules():  # transformers' std of 0.02 is meant for wider layers
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
            module.reset_parameters()
    with torch.no_grad():
        for layer in model.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(0.5)
        for free in (model.memory_temporal_positional_encoding, model.no_memory_embedding):
            free.normal_(std=0.02)
        _init_attention(model)
    return model


def _init_attention(model: Sam2VideoModel) -> None:
    """Initialise attention so that it matches positions: prompt to image, and frame to memory.

    Training would learn this too, but several times more slowly.
    """
    # Prompts and images share one positional encoding.
    shared = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    decoder = model.mask_decoder.transformer
    looks = [decoder.final_attn_token_to_image]
    for layer in decoder.layers:
        looks += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for look in looks:  # equal projections: attention is high between nearby positions
        look.q_proj.weight.mul_(3)
        look.k_proj.weight.copy_(look.q_proj.weight)
    memory = model.memory_encoder
    nn.init.dirac_(memory.feature_projection.weight)
    nn.init.orthogonal_(memory.projection.weight)
    for layer in model.memory_attention.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        look = layer.cross_attn_image  # a feature attends to the memory of similar features
        look.k_proj.weight.mul_(1.5)
        look.q_proj.weight.copy_(look.k_proj.weight @ memory.projection.weight[..., 0, 0])
        for bias in (
            look.q_proj.bias,
            look.k_proj.bias,
        ):  # with the rotary encoding, equal biases favour nearby positions
            bias.fill_(0.5)
