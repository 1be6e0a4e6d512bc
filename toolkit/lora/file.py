"""LoRA files: read what the ecosystem writes, write what it reads.

In memory a LoRA is a pair (A, B) per linear layer, by the name that diffusers gives the layer, with alpha
folded in: the layer's change is exactly B @ A. Files come in three dialects of Wan keys:

    comfyui    diffusion_model.blocks.0.self_attn.q.lora_A.weight   (the default; also read by diffusers)
    diffusers  transformer.blocks.0.attn1.to_q.lora_A.weight
    kohya      lora_unet_blocks_0_self_attn_q.lora_down.weight, ….lora_up.weight, ….alpha

Special tokens (`toolkit.lora.special_tokens`) travel in the metadata, as text: diffusers refuses a file with
a tensor that is no LoRA's; metadata that a loader does not know, it leaves alone.
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
    ``tokens[token]`` is what a special token adds to the embedding of its class noun, (D,) float32, or (n, D)
    where each of the noun's n tokens has a vector of its own; the rest that is known of it stands in
    ``metadata["castmix.tokens"]``, see `toolkit.lora.special_tokens`. A LoRA of tokens alone has no tensors.
    """

    tensors: dict[str, tuple[Tensor, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of all layers; 0 without any."""
        return max((a.shape[0] for a, _ in self.tensors.values()), default=0)


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
    metadata = {"format": "pt", **lora.metadata, **_tokens_as_text(path, lora)}
    write_atomic(path, safetensors_bytes(tensors, metadata))


def load_lora(path: Path) -> Lora:
    """Read a LoRA of any of the three dialects, as float32; a folder means the lora.safetensors in it.

    Raises:
        CastmixError: there is no such file, it is no safetensors, or it has keys that no Wan LoRA has.
    """
    path = lora_file(Path(path))
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
    known, tokens = _tokens_from_text(path, metadata)
    if strange or not (halves or tokens):
        found = f"keys such as {', '.join(sorted(strange)[:3])}" if strange else "no keys"
        raise CastmixError(
            f"{path} is no LoRA of a Wan model: it has {found} (known: diffusion_model.blocks.… of ComfyUI, "
            "transformer.blocks.… of diffusers and lora_unet_blocks_… of kohya)"
        )
    scales = _diffusers_scales(metadata)
    tensors = {name: _pair(path, name, half, scales.get(name)) for name, half in sorted(halves.items())}
    return Lora(tensors, known, tokens)


def _tokens_as_text(path: Path, lora: Lora) -> dict[str, str]:
    """The metadata entry of a file: what is known of each token, and its vector, little-endian float32."""
    if not lora.tokens:
        return {}
    facts = json.loads(lora.metadata.get(TOKENS, "{}"))
    if set(facts) != set(lora.tokens):
        raise CastmixError(f"{path}: tokens {sorted(lora.tokens)}, but {TOKENS} tells of {sorted(facts)}")
    for token, vector in lora.tokens.items():
        raw = vector.detach().cpu().float().contiguous().view(torch.uint8).numpy().tobytes()
        facts[token] = {**facts[token], "vector": base64.b64encode(raw).decode()}
        if vector.ndim > 1:
            facts[token]["rows"] = len(vector)
    return {TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)}


def _tokens_from_text(path: Path, metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata as it is in memory, and the vectors of the tokens."""
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
        raise CastmixError(f"{path}: its tokens cannot be read ({error!r}): make them anew") from error
    return {**metadata, TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)}, tokens


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
