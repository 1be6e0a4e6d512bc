"""LoRA layers inside a network, as peft adapters: add, attach, activate, extract, detach.

An adapter is a LoRA inside a network, under a name. Several can be attached; each takes effect only inside
`activate`, which restores the network afterwards. Adapters run at scale 1, because `file.load_lora` has
folded alpha / rank into B.

This is the only module that calls peft. peft switches `requires_grad` on when it activates an adapter, and
does not remember the weights of several adapters. The functions here undo both.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch

from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.core.seeds import generator_for
from toolkit.lora.file import Lora
from toolkit.lora.settings import TARGETS, Adapter, check_adapter


def add(module: torch.nn.Module, name: str, settings: Adapter, seed: int) -> None:
    """Add a new adapter to train: A random, B zero, so that it changes nothing yet.

    The adapter is float32, whatever the network's type. The random numbers depend on seed and layer name
    only, not on the device. torch's global generator is not used.

    Raises:
        CastmixError: an unknown target, or a network without any of the target layers.
    """
    check_adapter(settings)
    pattern = re.compile("|".join(TARGETS[target] for target in settings.targets))
    layers = [key for key, layer in _linears(module).items() if pattern.fullmatch(key)]
    if not layers:
        raise CastmixError(
            f"adapter.targets {', '.join(settings.targets)}: this model has no such linear layer"
        )
    _inject(module, name, dict.fromkeys(layers, settings.rank), settings.alpha)
    with torch.no_grad():
        for key, layer in lora_layers(module, name).items():
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            # As in the LoRA paper's code: kaiming_uniform(a=sqrt(5)) has the bound 1 / sqrt(inputs).
            bound = a.shape[1] ** -0.5
            uniform = torch.rand(a.shape, generator=generator_for(seed, 0, f"adapter/{key}"))
            a.copy_((2 * uniform - 1) * bound)
            b.zero_()


def attach(module: torch.nn.Module, lora: Lora, name: str, fingerprint: str = "") -> None:
    """Put a LoRA into the network as an adapter. It takes effect inside `activate` only.

    Args:
        module: The network.
        lora: The LoRA; alpha is folded into its B.
        name: Of the adapter.
        fingerprint: Of this network (`models.registry.fingerprint`). A LoRA that was trained on another
            network gets a warning.

    Raises:
        CastmixError: the network lacks a layer of the LoRA or has it in another shape, or the LoRA has no
            layers.
    """
    linears = _linears(module)
    trained_on = lora.metadata.get("castmix.base_fingerprint", "unknown")
    origin = f"{lora.metadata.get('castmix.base', 'an unknown base')} (fingerprint {trained_on})"
    for key, (a, b) in lora.tensors.items():
        here = linears.get(key)
        if here is None or (here.in_features, here.out_features) != (a.shape[1], b.shape[0]):
            found = f"is {here.in_features}→{here.out_features}" if here is not None else "does not exist"
            raise CastmixError(
                f"the LoRA {name!r} does not fit this model: layer {key} is {a.shape[1]}→{b.shape[0]}, which "
                f"here {found}. It was trained on {origin}; this base has {fingerprint or 'none'}"
            )
    if fingerprint and trained_on not in ("unknown", fingerprint):
        say(
            f"warning: the LoRA {name!r} was trained on {origin}, not on this base ({fingerprint}): "
            "its shapes fit, its results may differ"
        )
    if not lora.tensors:
        raise CastmixError(f"the LoRA {name!r} changes no layer: its file has special tokens only")
    # None means alpha = rank, so peft's scale is 1: `file.load_lora` has folded alpha into B.
    _inject(module, name, {key: a.shape[0] for key, (a, _) in lora.tensors.items()}, None)
    with torch.no_grad():
        for key, layer in lora_layers(module, name).items():
            layer.lora_A[name].weight.copy_(lora.tensors[key][0])
            layer.lora_B[name].weight.copy_(lora.tensors[key][1])


def detach(module: torch.nn.Module, name: str) -> None:
    """Take an adapter out of the network. A layer without adapters is the original linear layer again.

    Raises:
        CastmixError: the network has no such adapter.
    """
    layers = lora_layers(module, name)
    if not layers:
        raise CastmixError(f"no adapter {name!r} in this model")
    for key, layer in layers.items():
        active = [other for other in layer.active_adapters if other != name]
        layer.delete_adapter(name)
        if layer.lora_A:
            layer.set_adapter(active, inference_mode=True)
        else:
            parent, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    untyped: Any = module
    untyped.peft_config.pop(name, None)
    if not untyped.peft_config:
        del untyped.peft_config


def extract(module: torch.nn.Module, name: str, metadata: Mapping[str, str] | None = None) -> Lora:
    """The adapter as a LoRA, on the CPU, float32, its scale alpha / rank folded into B."""
    tensors = {}
    for key, layer in lora_layers(module, name).items():
        a, b = (half[name].weight.detach().float().cpu() for half in (layer.lora_A, layer.lora_B))
        scale = layer.lora_alpha[name] / layer.r[name]
        tensors[key] = (a.clone(), b.clone() if scale == 1 else b * scale)
    return Lora(tensors, dict(metadata or {}))


def trainable(module: torch.nn.Module, name: str) -> dict[str, torch.nn.Parameter]:
    """Freeze everything but this adapter, activate it alone, and return its parameters, sorted by name."""
    module.requires_grad_(False)
    for layer in _all_lora_layers(module).values():
        layer.set_adapter([name])
    found: dict[str, torch.nn.Parameter] = {}
    for key, layer in lora_layers(module, name).items():
        found[f"{key}.A"] = layer.lora_A[name].weight
        found[f"{key}.B"] = layer.lora_B[name].weight
    return dict(sorted(found.items()))


def restrict_to_heads(
    parameters: Mapping[str, torch.nn.Parameter], heads: Mapping[int, Collection[int]], size: int
) -> None:
    """Restrict a new adapter to some heads of each block's self-attention.

    M is the 0/1 diagonal matrix of the heads' channels. The change becomes M B A in to_q, to_k and to_v, and
    B A M in to_out. So some rows of B and columns of A are zero, and so are their gradients. The result is an
    ordinary LoRA.

    Args:
        parameters: Of the adapter, from `trainable`.
        heads: Heads by block. Blocks that are left out do not change.
        size: Channels of a head.
    """
    layer = re.compile(r"blocks\.(\d+)\.attn1\.(?:(to_q|to_k|to_v)\.B|to_out\.0\.A)")
    for key, parameter in parameters.items():
        if found := layer.fullmatch(key):
            width = parameter.shape[0 if found[2] else 1]
            mask = torch.zeros(width, device=parameter.device)
            for head in heads.get(int(found[1]), ()):
                mask[head * size : (head + 1) * size] = 1
            mask = mask.unsqueeze(1) if found[2] else mask
            parameter.data.mul_(mask)
            untyped: Any = parameter
            untyped.register_hook(mask.mul)


@contextlib.contextmanager
def activate(module: torch.nn.Module, weights: Mapping[str, float]) -> Iterator[None]:
    """Inside, the network runs with these adapters only: W x + sum of weight * B A x.

    Without weights, or with weights of 0, it is the base model. Afterwards active adapters, scales and
    requires_grad are as before.

    Raises:
        CastmixError: the network has no such adapter.
    """
    layers = _all_lora_layers(module)
    known = {name for layer in layers.values() for name in layer.lora_A}
    if unknown := sorted(set(weights) - known):
        have = ", ".join(sorted(known)) or "none"
        raise CastmixError(f"no adapter {', '.join(unknown)} in this model; it has {have}")
    before = [(layer, list(layer.active_adapters), dict(layer.scaling)) for layer in layers.values()]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    active = [name for name, weight in weights.items() if weight != 0]
    try:
        for layer in layers.values():
            layer.set_adapter(active, inference_mode=True)
            for name in active:
                layer.set_scale(name, weights[name])
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)
        yield
    finally:
        for layer, previous, scaling in before:
            layer.set_adapter(previous, inference_mode=True)
            layer.scaling.update(scaling)
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)


def lora_layers(module: torch.nn.Module, name: str) -> dict[str, Any]:
    """peft's layers that have this adapter, sorted by name."""
    return {key: layer for key, layer in sorted(_all_lora_layers(module).items()) if name in layer.lora_A}


def merge(
    changes: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    kind: Literal["ties", "dare_linear"],
    density: float,
    sign: Literal["total", "frequency"],
    seed: int,
    what: str,
) -> torch.Tensor:
    """TIES or DARE of whole changes B A of one layer, (out, in) each, by peft.

    what: The layer's name. DARE's random numbers depend on seed and this name.
    """
    from peft.utils import merge_utils

    tensors, scales = list(changes), torch.tensor(weights, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The density")  # a density of 1 is intended
        merged: torch.Tensor
        if kind == "ties":
            merged = merge_utils.ties(tensors, scales, density, sign)
            return merged
        torch.manual_seed(generator_for(seed, 0, f"{kind}/{what}").initial_seed())
        merged = merge_utils.dare_linear(tensors, scales, density)
        return merged


def _inject(module: torch.nn.Module, name: str, ranks: Mapping[str, int], alpha: float | None) -> None:
    """Let peft wrap the layers, each at its own rank, frozen and inactive. alpha None: alpha is the rank."""
    from peft import LoraConfig, inject_adapter_in_model

    if lora_layers(module, name):
        raise CastmixError(f"there is an adapter {name!r} in this model already")
    active = {key: list(layer.active_adapters) for key, layer in _all_lora_layers(module).items()}
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    rank = max(ranks.values())
    others = {f"^{re.escape(key)}$": r for key, r in ranks.items() if r != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules="|".join(map(re.escape, ranks)),
        rank_pattern=others,
        alpha_pattern=others if alpha is None else {},
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft initialises at random
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a second adapter is intended
        inject_adapter_in_model(config, module, name)
    for layer in lora_layers(module, name).values():
        layer.lora_A[name].float()
        layer.lora_B[name].float()
    for key, layer in _all_lora_layers(module).items():
        layer.set_adapter(active.get(key, []), inference_mode=True)
    for parameter, needed in gradients:
        parameter.requires_grad_(needed)


def _linears(module: torch.nn.Module) -> dict[str, Any]:
    """Every linear layer of the base network, by its name there."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {}
    for key, part in module.named_modules():
        if isinstance(part, LoraLayer):
            found[key] = part.get_base_layer()
        elif isinstance(part, torch.nn.Linear) and ".base_layer" not in key and ".lora_" not in key:
            found[key] = part
    return found


def _all_lora_layers(module: torch.nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {key: part for key, part in module.named_modules() if isinstance(part, LoraLayer)}
