"""LoRA files: read and write the formats of ComfyUI, diffusers and kohya.

In memory a LoRA is a pair (A, B) per linear layer, keyed by the layer's name in diffusers. A file's alpha
enters here and nowhere else: `load_lora` multiplies B by alpha / rank, so a layer's change is exactly B @ A.
Wan's layers have three spellings in files:

    comfyui    diffusion_model.blocks.0.self_attn.q.lora_A.weight   (the default; also read by diffusers)
    diffusers  transformer.blocks.0.attn1.to_q.lora_A.weight
    kohya      lora_unet_blocks_0_self_attn_q.lora_down.weight, ….lora_up.weight, ….alpha

Special tokens (`toolkit.lora.special_tokens`) are stored in the metadata, as text. diffusers refuses files
with tensors of another kind, but every loader ignores unknown metadata.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.files import read_safetensors, safetensors_bytes, write_atomic
from toolkit.lora.settings import TOKENS, lora_file

# Layer names inside one block: of Wan's own code, which ComfyUI and kohya use, to those of diffusers.
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
_TO_WAN_BLOCK = {name: wan for wan, name in BLOCK_NAMES.items()}
_TO_WAN_OTHER = {name: wan for wan, name in OTHER_NAMES.items()}
_FROM_KOHYA = {wan.replace(".", "_"): name for wan, name in (BLOCK_NAMES | OTHER_NAMES).items()}

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.")
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up)(\.[a-z_]+)?\.weight|(?P<alpha>.+)\.alpha"
)


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of linear layers, and special tokens.

    Attributes:
        tensors: ``(A, B)`` by the layer's name in diffusers; A (r, in), B (out, r), alpha included. The
            layer's weight W changes by B @ A. Empty for a file of special tokens alone.
        metadata: Text by key. ``castmix.tokens`` holds each special token's noun and kind as JSON.
        tokens: Learned vectors by special token, float32: (D,), or (n, D) with one vector for each of the n
            tokens of its class noun.
    """

    tensors: dict[str, tuple[Tensor, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of all layers; 0 without layers."""
        return max((a.shape[0] for a, _ in self.tensors.values()), default=0)


def save_lora(lora: Lora, path: Path, format: str = "comfyui", dtype: torch.dtype = torch.float32) -> None:
    """Write a LoRA. Equal LoRAs give equal bytes.

    Args:
        lora: The LoRA.
        path: The file to write.
        format: Spelling of the layer names: "comfyui" (loads in ComfyUI, diffusers and the common trainers)
            or "diffusers".
        dtype: Of the tensors in the file. bfloat16 halves its size.

    Raises:
        CastmixError: an unknown format, or a layer without a name in that format.
    """
    if format not in ("comfyui", "diffusers"):
        raise CastmixError(f"{path}: unknown LoRA format {format!r}; use 'comfyui' or 'diffusers'")
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in lora.tensors.items():
        key = f"diffusion_model.{_wan_name(name)}" if format == "comfyui" else f"transformer.{name}"
        tensors[f"{key}.lora_A.weight"] = a.to(dtype)
        tensors[f"{key}.lora_B.weight"] = b.to(dtype)
    metadata = {"format": "pt", **lora.metadata, **_tokens_to_metadata(path, lora)}
    write_atomic(path, safetensors_bytes(tensors, metadata))


def load_lora(path: Path) -> Lora:
    """Read a LoRA in any of the three spellings, as float32, with alpha folded into B.

    path: A file, or a folder with a lora.safetensors.

    Raises:
        CastmixError: the file is missing, not a safetensors file, or has keys that no Wan LoRA has.
    """
    path = lora_file(Path(path))
    state, metadata = read_safetensors(path)
    found: dict[str, dict[str, Tensor]] = {}  # layer → lora_A, lora_B, alpha
    unknown: list[str] = []
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        name = _diffusers_name(match["module"] or match["alpha"]) if match else None
        if match is None or name is None:
            unknown.append(key)
        else:
            part = {"lora_down": "lora_A", "lora_up": "lora_B", None: "alpha"}.get(
                match["part"], match["part"]
            )
            found.setdefault(name, {})[str(part)] = tensor.float()
    metadata, tokens = _tokens_from_metadata(path, metadata)
    if unknown or not (found or tokens):
        keys = f"keys such as {', '.join(sorted(unknown)[:3])}" if unknown else "no keys"
        raise CastmixError(
            f"{path} is not a LoRA of a Wan model: it has {keys} (known: diffusion_model.blocks.… of "
            "ComfyUI, transformer.blocks.… of diffusers and lora_unet_blocks_… of kohya)"
        )
    scales = _diffusers_scales(metadata)
    tensors = {
        name: _scaled_pair(path, name, layer, scales.get(name)) for name, layer in sorted(found.items())
    }
    return Lora(tensors, metadata, tokens)


def _tokens_to_metadata(path: Path, lora: Lora) -> dict[str, str]:
    """The file's metadata entry for special tokens: noun, kind and vector, as base64 of float32 LE."""
    if not lora.tokens:
        return {}
    facts = json.loads(lora.metadata.get(TOKENS, "{}"))
    if set(facts) != set(lora.tokens):
        raise CastmixError(f"{path}: tokens {sorted(lora.tokens)}, but {TOKENS} describes {sorted(facts)}")
    for token, vector in lora.tokens.items():
        raw = vector.detach().cpu().float().contiguous().view(torch.uint8).numpy().tobytes()
        facts[token] = {**facts[token], "vector": base64.b64encode(raw).decode()}
        if vector.ndim > 1:
            facts[token]["rows"] = len(vector)
    return {TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)}


def _tokens_from_metadata(path: Path, metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata without the tokens' vectors, and the vectors by token."""
    if TOKENS not in metadata:
        return metadata, {}
    try:
        facts = json.loads(metadata[TOKENS])
        tokens = {}
        for token, fact in facts.items():
            raw = bytearray(base64.b64decode(fact.pop("vector"), validate=True))
            vector, rows = torch.frombuffer(raw, dtype=torch.float32), fact.pop("rows", None)
            tokens[token] = vector if rows is None else vector.reshape(int(rows), -1)
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CastmixError(
            f"{path}: its special tokens cannot be read ({error!r}): learn them again"
        ) from error
    return {**metadata, TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)}, tokens


def _scaled_pair(
    path: Path, name: str, layer: dict[str, Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    """A and B of one layer, B multiplied by alpha / rank.

    layer: lora_A, lora_B, and alpha if the file has it. scale: alpha / rank where the file's header gives it.
    With neither, alpha is the rank.
    """
    if missing := [half for half in ("lora_A", "lora_B") if half not in layer]:
        raise CastmixError(f"{path}: layer {name} has no {missing[0]}")
    a, b = layer["lora_A"], layer["lora_B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CastmixError(
            f"{path}: layer {name} has A {tuple(a.shape)} and B {tuple(b.shape)}; their ranks differ"
        )
    if "alpha" in layer:
        scale = float(layer["alpha"]) / a.shape[0]
    return a, b if scale is None or scale == 1 else b * scale


def _diffusers_scales(metadata: Mapping[str, str]) -> dict[str, float]:
    """alpha / rank by layer, from the metadata that diffusers writes; other layers have alpha = rank."""
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
    """A layer's name in Wan's own code, from its name in diffusers."""
    block = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    wan = (
        f"{block[1]}.{_TO_WAN_BLOCK[block[2]]}"
        if block and block[2] in _TO_WAN_BLOCK
        else _TO_WAN_OTHER.get(name)
    )
    if wan is None:
        raise CastmixError(f"layer {name} has no name in ComfyUI's format: save it with format='diffusers'")
    return wan


def _diffusers_name(key: str) -> str | None:
    """A layer's name in diffusers, from any spelling. None if Wan has no such linear layer."""
    if key.startswith("lora_unet_"):
        flat = key.removeprefix("lora_unet_")
        block = re.fullmatch(r"blocks_(\d+)_(.+)", flat)
        name = _FROM_KOHYA.get(block[2] if block else flat)
        return f"blocks.{block[1]}.{name}" if block and name else name
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    inside = block[2] if block else key
    name = BLOCK_NAMES.get(inside) if block else OTHER_NAMES.get(inside)
    if name is None and inside in (_TO_WAN_BLOCK if block else _TO_WAN_OTHER):
        name = inside  # spelt as in diffusers already
    return f"blocks.{block[1]}.{name}" if block and name else name
