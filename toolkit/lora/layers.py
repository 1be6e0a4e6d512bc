"""LoRA layers inside a network: add, attach, extract, activate. The only caller of peft.

peft switches `requires_grad` on wherever it sets an adapter active and forgets the weights of several:
nothing else in castmix calls it, adding an adapter changes nothing until it is asked for, and what
`activate` changes it puts back.
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
from toolkit.lora.settings import Adapter

TARGETS: dict[str, str] = {
    "attn1": r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)",
    "attn2": r"blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "ffn": r"blocks\.\d+\.ffn\.(net\.0\.proj|net\.2)",
    # Queries and keys decide who looks at whom, and when; values carry looks (DreamRelation). SMRABooth found
    # the reverse on Wan 2.1: values and output for motion. Both are here to be tried.
    "motion-qk": r"blocks\.\d+\.attn1\.(to_q|to_k)",
    "motion-vo": r"blocks\.\d+\.(attn1\.(to_v|to_out\.0)|ffn\.(net\.0\.proj|net\.2))",
    "subject": r"blocks\.\d+\.(attn2\.(to_q|to_k|to_v|to_out\.0)|ffn\.(net\.0\.proj|net\.2))",
}


def add(module: torch.nn.Module, name: str, settings: Adapter, seed: int) -> None:
    """Add a fresh adapter: A random, B zero, so that it begins as no change.

    The adapter's tensors are float32 whatever the network's are. The random numbers depend on seed and layer
    name only, not on the device, and torch's global generator is left as it was.

    Raises:
        CastmixError: an unknown target, or none of the targets is in the network.
    """
    if settings.rank < 1:
        raise CastmixError(f"adapter.rank must be 1 or more, got {settings.rank}")
    unknown = sorted(set(settings.targets) - set(TARGETS))
    if unknown:
        raise CastmixError(f"adapter.targets: no {', '.join(unknown)}; choose among {', '.join(TARGETS)}")
    pattern = re.compile("|".join(TARGETS[target] for target in settings.targets))
    layers = [key for key, layer in _linears(module).items() if pattern.fullmatch(key)]
    if not layers:
        raise CastmixError(
            f"adapter.targets {', '.join(settings.targets)} name no linear layer of this model"
        )
    _inject(module, name, dict.fromkeys(layers, settings.rank), settings.alpha)
    with torch.no_grad():
        for key, layer in _lora_layers(module, name).items():
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            # kaiming_uniform(a=sqrt(5)) of a linear layer, as in the LoRA paper's code: 1 / sqrt(inputs)
            bound = a.shape[1] ** -0.5
            drawn = torch.rand(a.shape, generator=generator_for(seed, 0, f"adapter/{key}"))
            a.copy_((2 * drawn - 1) * bound)
            b.zero_()


def attach(module: torch.nn.Module, lora: Lora, name: str, fingerprint: str = "") -> None:
    """Put a LoRA into the network as an adapter; it takes effect inside `activate` only.

    fingerprint: of this network (`models.registry.fingerprint`), to tell when the LoRA was made for another.

    Raises:
        CastmixError: a layer is missing here or has another shape than the LoRA's.
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
                f"here {found}. It was trained on {origin}, this base has {fingerprint or 'none'}"
            )
    if fingerprint and trained_on not in ("unknown", fingerprint):
        say(
            f"warning: the LoRA {name!r} was trained on {origin}, not on this base ({fingerprint}): "
            "the shapes fit, the look may not"
        )
    if not lora.tensors:
        raise CastmixError(f"the LoRA {name!r} changes no layer: it is a file of special tokens alone")
    # alpha is folded into B already: alpha = rank makes peft's scale 1.
    _inject(module, name, {key: a.shape[0] for key, (a, _) in lora.tensors.items()}, None)
    with torch.no_grad():
        for key, layer in _lora_layers(module, name).items():
            layer.lora_A[name].weight.copy_(lora.tensors[key][0])
            layer.lora_B[name].weight.copy_(lora.tensors[key][1])


def detach(module: torch.nn.Module, name: str) -> None:
    """Take an adapter out of the network. A layer without any other is again the layer that it was.

    Raises:
        CastmixError: there is no such adapter.
    """
    layers = _lora_layers(module, name)
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
    """The adapter as a LoRA on the CPU, float32, its scale folded into B."""
    tensors = {}
    for key, layer in _lora_layers(module, name).items():
        a, b = (half[name].weight.detach().float().cpu() for half in (layer.lora_A, layer.lora_B))
        scale = layer.lora_alpha[name] / layer.r[name]
        tensors[key] = (a.clone(), b.clone() if scale == 1 else b * scale)
    return Lora(tensors, dict(metadata or {}))


def trainable(module: torch.nn.Module, name: str) -> dict[str, torch.nn.Parameter]:
    """Freeze everything but this adapter, make it the active one, and return its tensors by sorted name."""
    module.requires_grad_(False)
    for layer in _all_lora_layers(module).values():
        layer.set_adapter([name])
    found: dict[str, torch.nn.Parameter] = {}
    for key, layer in _lora_layers(module, name).items():
        found[f"{key}.A"] = layer.lora_A[name].weight
        found[f"{key}.B"] = layer.lora_B[name].weight
    return dict(sorted(found.items()))


def restrict(
    parameters: Mapping[str, torch.nn.Parameter], heads: Mapping[int, Collection[int]], size: int
) -> None:
    """From now on a fresh adapter changes only these heads of each block's self-attention.

    With M the 0/1 diagonal of the heads' numbers, the change is M B A in to_q, to_k and to_v and B A M in
    to_out: rows of B and columns of A that are zero, as their gradients are. The LoRA is one like any other.

    parameters: what `trainable` returned. heads: by block; one that is left out is not changed. size: of a
    head.
    """
    layer = re.compile(r"blocks\.(\d+)\.attn1\.(?:(to_q|to_k|to_v)\.B|to_out\.0\.A)")
    for key, parameter in parameters.items():
        if found := layer.fullmatch(key):
            chosen = heads.get(int(found[1]), ())
            width = parameter.shape[0 if found[2] else 1]
            mask = torch.zeros(width, device=parameter.device)
            for head in chosen:
                mask[head * size : (head + 1) * size] = 1
            mask = mask.unsqueeze(1) if found[2] else mask
            parameter.data.mul_(mask)
            untyped: Any = parameter
            untyped.register_hook(mask.mul)


@contextlib.contextmanager
def activate(module: torch.nn.Module, weights: Mapping[str, float]) -> Iterator[None]:
    """Run the network with these adapters at these weights, and with no other: the exact weighted sum.

    No weights at all, or weights of 0, is the base model. On the way out active adapters, scales
    and requires_grad are what they were.
    """
    layers = _all_lora_layers(module)
    known = {name for layer in layers.values() for name in layer.lora_A}
    absent = sorted(set(weights) - known)
    if absent:
        have = ", ".join(sorted(known)) or "none"
        raise CastmixError(f"no adapter {', '.join(absent)} in this model; it has {have}")
    before = [(layer, list(layer.active_adapters), dict(layer.scaling)) for layer in layers.values()]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    wanted = [name for name, weight in weights.items() if weight != 0]
    try:
        for layer in layers.values():
            layer.set_adapter(wanted, inference_mode=True)
            for name in wanted:
                layer.set_scale(name, weights[name])
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)
        yield
    finally:
        for layer, active, scaling in before:
            layer.set_adapter(active, inference_mode=True)
            layer.scaling.update(scaling)
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)


def _inject(module: torch.nn.Module, name: str, ranks: Mapping[str, int], alpha: float | None) -> None:
    """Let peft wrap the layers, each at its own rank, frozen and inactive. alpha None means alpha = rank."""
    from peft import LoraConfig, inject_adapter_in_model

    if _lora_layers(module, name):
        raise CastmixError(f"there is an adapter {name!r} in this model already")
    active = {key: list(layer.active_adapters) for key, layer in _all_lora_layers(module).items()}
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    rank = max(ranks.values())
    others = {f"^{re.escape(key)}$": r for key, r in ranks.items() if r != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # any number will do
        target_modules="|".join(map(re.escape, ranks)),
        rank_pattern=others,
        alpha_pattern=others if alpha is None else {},
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft draws; castmix never does
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        inject_adapter_in_model(config, module, name)
    for layer in _lora_layers(module, name).values():
        layer.lora_A[name].float()
        layer.lora_B[name].float()
    for key, layer in _all_lora_layers(module).items():
        layer.set_adapter(active.get(key, []), inference_mode=True)
    for parameter, needed in gradients:
        parameter.requires_grad_(needed)


def _linears(module: torch.nn.Module) -> dict[str, Any]:
    """Every linear layer by its name before any adapter wrapped it."""
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


def _lora_layers(module: torch.nn.Module, name: str) -> dict[str, Any]:
    """Layers that have this adapter, by sorted name."""
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
    """peft's sparse sum of whole changes B A of one layer, (out, in) each; draws come from seed and what."""
    from peft.utils import merge_utils

    tensors, scales = list(changes), torch.tensor(weights, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The density")  # 1 keeps everything, and is meant to
        merged: torch.Tensor
        if kind == "ties":
            merged = merge_utils.ties(tensors, scales, density, sign)
            return merged
        torch.manual_seed(generator_for(seed, 0, f"{kind}/{what}").initial_seed())
        merged = merge_utils.dare_linear(tensors, scales, density)
        return merged
