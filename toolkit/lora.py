"""LoRA files: read what the ecosystem writes, write what it reads.

In memory a LoRA is a pair (A, B) per linear layer, by the name that diffusers gives the layer, with alpha
folded in: the layer's change is exactly B @ A. Files come in three dialects of Wan keys:

    comfyui    diffusion_model.blocks.0.self_attn.q.lora_A.weight   (the default; also read by diffusers)
    diffusers  transformer.blocks.0.attn1.to_q.lora_A.weight
    kohya      lora_unet_blocks_0_self_attn_q.lora_down.weight, ….lora_up.weight, ….alpha
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from toolkit.data import safetensors_bytes, write_atomic
from toolkit.errors import CastmixError

# Names inside one block: Wan's own (which ComfyUI and kohya use), then diffusers'.
BLOCK_NAMES: dict[str, str] = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
OTHER_NAMES: dict[str, str] = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
_TO_WAN_BLOCK = {ours: wan for wan, ours in BLOCK_NAMES.items()}
_TO_WAN_OTHER = {ours: wan for wan, ours in OTHER_NAMES.items()}
_FROM_KOHYA = {wan.replace(".", "_"): ours for wan, ours in (BLOCK_NAMES | OTHER_NAMES).items()}

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.")
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up)(\.[a-z_]+)?\.weight|(?P<alpha>.+)\.alpha"
)


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of linear layers.

    ``tensors[name] = (A, B)`` with A (r, in) and B (out, r), by diffusers' layer name; W changes by B @ A.
    """

    tensors: dict[str, tuple[Tensor, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of all layers."""
        return max(a.shape[0] for a, _ in self.tensors.values())


def save_lora(lora: Lora, path: Path, format: str = "comfyui", dtype: torch.dtype = torch.float32) -> None:
    """Write a LoRA; equal LoRAs give equal bytes.

    format: "comfyui" (loads in ComfyUI, diffusers and the common trainers) or "diffusers".
    dtype: of the tensors in the file; bfloat16 halves it.
    """
    if format not in ("comfyui", "diffusers"):
        raise CastmixError(f"{path}: no LoRA format {format!r}; use 'comfyui' or 'diffusers'")
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in lora.tensors.items():
        key = f"diffusion_model.{_wan_name(name)}" if format == "comfyui" else f"transformer.{name}"
        tensors[f"{key}.lora_A.weight"] = a.to(dtype)
        tensors[f"{key}.lora_B.weight"] = b.to(dtype)
    write_atomic(path, safetensors_bytes(tensors, {"format": "pt", **lora.metadata}))


def load_lora(path: Path) -> Lora:
    """Read a LoRA of any of the three dialects, as float32; a folder means the lora.safetensors in it.

    Raises:
        CastmixError: there is no such file, it is no safetensors, or it has keys that no Wan LoRA has.
    """
    path = Path(path)
    path = path / "lora.safetensors" if path.is_dir() else path
    state, metadata = read_safetensors(path)
    halves: dict[str, dict[str, Tensor]] = {}
    strange: list[str] = []
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        name = _our_name(match["module"] or match["alpha"]) if match else None
        if match is None or name is None:
            strange.append(key)
        else:
            part = {"lora_down": "lora_A", "lora_up": "lora_B", None: "alpha"}.get(
                match["part"], match["part"]
            )
            halves.setdefault(name, {})[str(part)] = tensor.float()
    if strange or not halves:
        found = f"keys such as {', '.join(sorted(strange)[:3])}" if strange else "no keys"
        raise CastmixError(
            f"{path} is no LoRA of a Wan model: it has {found} (known: diffusion_model.blocks.… of ComfyUI, "
            "transformer.blocks.… of diffusers and lora_unet_blocks_… of kohya)"
        )
    scales = _diffusers_scales(metadata)
    tensors = {name: _pair(path, name, half, scales.get(name)) for name, half in sorted(halves.items())}
    return Lora(tensors, metadata)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        CastmixError: there is no such file, or it is not of that kind. Nothing is ever unpickled.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CastmixError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CastmixError(f"{path} is no safetensors file ({error}); castmix reads no other kind") from error


def _pair(path: Path, name: str, half: dict[str, Tensor], scale: float | None) -> tuple[Tensor, Tensor]:
    """A and B of one layer, with alpha / rank folded into B."""
    if not {"lora_A", "lora_B"} <= set(half):
        lacking = "lora_B" if "lora_A" in half else "lora_A"
        raise CastmixError(f"{path}: layer {name} has no {lacking}")
    a, b = half["lora_A"], half["lora_B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CastmixError(
            f"{path}: layer {name} has A {tuple(a.shape)} and B {tuple(b.shape)}; their ranks differ"
        )
    if "alpha" in half:
        scale = float(half["alpha"]) / a.shape[0]
    return a, b if scale is None or scale == 1 else b * scale


def _diffusers_scales(metadata: Mapping[str, str]) -> dict[str, float]:
    """alpha / rank by layer, where diffusers wrote them into the header; other layers have alpha = rank."""
    header = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    config = {key.removeprefix("transformer."): value for key, value in header.items()}
    names = config.get("target_modules") or []
    if "lora_alpha" not in config or isinstance(names, str):
        return {}
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    return {
        name: float(alphas.get(name, config["lora_alpha"])) / float(ranks.get(name, config["r"]))
        for name in names
    }


def _wan_name(name: str) -> str:
    """The name that Wan's own code gives a layer, from diffusers' name."""
    block = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    wan = (
        f"{block[1]}.{_TO_WAN_BLOCK[block[2]]}"
        if block and block[2] in _TO_WAN_BLOCK
        else _TO_WAN_OTHER.get(name)
    )
    if wan is None:
        raise CastmixError(f"layer {name} has no name in ComfyUI's dialect: save it with format='diffusers'")
    return wan


def _our_name(key: str) -> str | None:
    """diffusers' name of a layer, from any dialect; None if it is no linear layer of Wan."""
    if key.startswith("lora_unet_"):
        flat = key.removeprefix("lora_unet_")
        block = re.fullmatch(r"blocks_(\d+)_(.+)", flat)
        ours = _FROM_KOHYA.get(block[2] if block else flat)
        return f"blocks.{block[1]}.{ours}" if block and ours else ours
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    inside = block[2] if block else key
    ours = BLOCK_NAMES.get(inside) if block else OTHER_NAMES.get(inside)
    if ours is None and inside in (_TO_WAN_BLOCK if block else _TO_WAN_OTHER):
        ours = inside  # diffusers' own name already
    return f"blocks.{block[1]}.{ours}" if block and ours else ours
