"""The appearance prompt of a motion's clip: who is there, standing still. What it explains is no motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.models.interfaces import Denoiser, ModelSpec
from toolkit.models.registry import load_encoders
from toolkit.training.cached_clips import Item
from toolkit.training.settings import Motion, Sigma

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolkit.lora.file import Lora
    from toolkit.training.objectives import Aim

SUBJECTS = "{subjects}"
LEVELS = 4


def appearance_prompt(motion: Motion) -> tuple[str, list[Lora]]:
    """The prompt with its special tokens, and the file that they are in.

    Raises:
        CastmixError: it asks for subjects and there are no tokens, or it names none of them.
    """
    from toolkit.lora.file import load_lora
    from toolkit.lora.plain_words import class_nouns

    loras = [] if motion.tokens is None else [load_lora(motion.tokens)]
    tokens = sorted(class_nouns(loras))
    if SUBJECTS in motion.appearance and not tokens:
        raise CastmixError(
            f"motion.appearance {motion.appearance!r} asks for subjects: give --motion.tokens FILE (castmix "
            "invert makes it), or write them out, 'A static video of a red ball and a bear.'"
        )
    prompt = motion.appearance.replace(SUBJECTS, " and ".join(tokens))
    if tokens and not any(token in prompt for token in tokens):
        raise CastmixError(
            f"motion.appearance {prompt!r} has none of the tokens {', '.join(tokens)} of {motion.tokens}: "
            f"write {SUBJECTS} or a token where the subjects stand"
        )
    return prompt, loras


def check(motion: Motion) -> dict[str, Any]:
    """What of these settings a result depends on, by name.

    Raises:
        CastmixError: a number that cannot be, or an appearance prompt that cannot.
    """
    for name in ("omega", "debiased", "adjacent"):
        if not 0 <= getattr(motion, name) < float("inf"):
            raise CastmixError(f"motion.{name} must be 0 or more, got {getattr(motion, name):g}")
    from toolkit.lora.special_tokens import fingerprint_tokens

    loras = appearance_prompt(motion)[1] if motion.omega else []
    values = {f"motion.{name}": value for name, value in dataclasses.asdict(motion).items()}
    return values | {"motion.tokens": fingerprint_tokens(loras[0]) if loras else None}


def new_aim(motion: Motion, spec: ModelSpec, device: str | torch.device) -> Aim:
    """The knobs of the objective with the appearance prompt embedded."""
    from toolkit.lora.special_tokens import encode_prompts
    from toolkit.training.objectives import Aim

    if not motion.omega:
        return Aim(motion)
    prompt, loras = appearance_prompt(motion)
    encoders = load_encoders(spec, device)
    embeds = encode_prompts(encoders, [prompt], loras)
    encoders.release_text()
    return Aim(motion, embeds)


def worded(
    texts: Sequence[str], carried: Lora, spec: ModelSpec, device: str | torch.device
) -> dict[str, Tensor]:
    """Embeddings (L, D) of those captions that have special tokens in them, by caption.

    Raises:
        CastmixError: none has.
    """
    from toolkit.lora.special_tokens import TOKEN, encode_prompts

    spoken = sorted({text for text in texts if any(one in carried.tokens for one in TOKEN.findall(text))})
    if not spoken:
        raise CastmixError(
            f"no caption has one of the tokens {', '.join(sorted(carried.tokens)) or '(none)'}: write them "
            "into the captions, or leave --tokens out"
        )
    encoders = load_encoders(spec, device)
    embeds = encode_prompts(encoders, spoken, [carried]).cpu()
    encoders.release_text()
    return dict(zip(spoken, embeds, strict=True))


def explained(
    denoiser: Denoiser, item: Item, aim: Aim, empty: Tensor, sigma: Sigma, shift: float, seed: int
) -> list[dict[str, float]]:
    """How far the base is from a clip's velocity under the appearance prompt and under none, by noise level.

    What is taken out of the target is what the base expects under that prompt: if it explains the looks no
    better than no prompt does, (1 + omega) makes them stronger instead. That is said.

    empty: embedding (L, D) of the empty prompt.
    """
    import torch

    from toolkit.training.batches import validation
    from toolkit.training.objectives import velocity_loss

    if aim.appearance is None:
        return []
    (batch,) = validation([item], LEVELS, sigma, shift, seed)
    rows = []
    with torch.no_grad():
        for embeds in (aim.appearance[0], empty):
            prompts = embeds.expand(LEVELS, -1, -1)
            rows.append(velocity_loss(denoiser, batch.latents, prompts, batch.sigma, batch.noise).tolist())
    found = [
        {"sigma": round(level, 3), "appearance": round(mine, 5), "empty": round(none, 5)}
        for level, mine, none in zip(batch.sigma.tolist(), *rows, strict=True)
    ]
    gain = 1 - sum(rows[0]) / sum(rows[1])
    say(f"the appearance prompt explains {gain:.1%} of what the base does not expect of {item.path.stem}")
    if gain <= 0:
        say(
            "warning: no prompt explains more, so looks may be learnt. Try tokens that were learnt for "
            "longer (castmix learn-tokens), or a motion.appearance that names place and style, too"
        )
    return found


def heads_of(denoiser: Denoiser, items: Sequence[Item], seed: int) -> dict[int, tuple[int, ...]]:
    """The temporal heads of each block, seen on some cached clips: see `toolkit.attention.temporal_heads`."""
    import torch

    from toolkit.attention.temporal_heads import head_shares, temporal_heads
    from toolkit.core.seeds import generator_for
    from toolkit.models.flow_matching import interpolate

    shares = []
    for row, item in enumerate(items):
        latents, embeds = item.load()
        noise = torch.randn(latents.shape, generator=generator_for(seed, row, "heads/noise"))
        for sigma in (torch.tensor(0.6), torch.tensor(0.85)):
            x = interpolate(latents, noise, sigma).unsqueeze(0)
            shares.append(head_shares(denoiser, x, sigma, embeds.unsqueeze(0), seed=seed))
    heads = temporal_heads(torch.stack(shares).mean(0))
    count, every = sum(map(len, heads.values())), shares[0][..., 0].numel()
    say(f"{count} of {every} heads look along time: the LoRA's attn1 changes those")
    if count == every:
        say("note: that is all of them, so adapter.heads changes nothing")
    if not count:
        raise CastmixError("no head of this model looks along time: leave adapter.heads out")
    return heads
