"""The appearance prompt of the motion objective: it describes the clip's subjects, standing still."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.models.interfaces import Denoiser, ModelSpec
from toolkit.models.registry import load_encoders
from toolkit.training.cached_clips import CachedClip
from toolkit.training.settings import Motion, Sigma

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolkit.lora.file import Lora

SUBJECTS = "{subjects}"
LEVELS = 4
"""Number of noise levels at which the prompt is compared with the empty prompt."""


def appearance_prompt(motion: Motion) -> tuple[str, list[Lora]]:
    """The prompt with its special tokens, and the file that has them.

    Raises:
        CastmixError: the prompt has {subjects} and there are no tokens, or it has none of the tokens.
    """
    from toolkit.lora.file import load_lora
    from toolkit.lora.plain_words import class_nouns

    loras = [] if motion.tokens is None else [load_lora(motion.tokens)]
    tokens = sorted(class_nouns(loras))
    if SUBJECTS in motion.appearance and not tokens:
        raise CastmixError(
            f"motion.appearance {motion.appearance!r} has {SUBJECTS} but there are no tokens for them: add "
            "--motion.tokens FILE (made by castmix learn-tokens), or describe the subjects in words, 'A "
            "static video of a red ball and a bear.'"
        )
    prompt = motion.appearance.replace(SUBJECTS, " and ".join(tokens))
    if tokens and not any(token in prompt for token in tokens):
        raise CastmixError(
            f"motion.appearance {prompt!r} has none of the tokens {', '.join(tokens)} of {motion.tokens}: "
            f"write {SUBJECTS} or a token in it"
        )
    return prompt, loras


def check_motion(motion: Motion) -> dict[str, Any]:
    """Check these settings. Returns those that the result depends on, by name.

    Raises:
        CastmixError: a number out of range, or an invalid appearance prompt.
    """
    for name in ("omega", "debiased", "adjacent"):
        if not 0 <= getattr(motion, name) < float("inf"):
            raise CastmixError(f"motion.{name} must be 0 or more, got {getattr(motion, name):g}")
    from toolkit.lora.special_tokens import fingerprint_tokens

    loras = appearance_prompt(motion)[1] if motion.omega else []
    values = {f"motion.{name}": value for name, value in dataclasses.asdict(motion).items()}
    return values | {"motion.tokens": fingerprint_tokens(loras[0]) if loras else None}


def embed_appearance(motion: Motion, spec: ModelSpec, device: str | torch.device) -> Tensor | None:
    """The embedding (1, L, D) of the appearance prompt; None if omega is 0, when nothing is subtracted."""
    from toolkit.lora.special_tokens import encode_prompts

    if not motion.omega:
        return None
    prompt, loras = appearance_prompt(motion)
    encoders = load_encoders(spec, device)
    embeds = encode_prompts(encoders, [prompt], loras)
    encoders.release_text_encoder()
    return embeds


def compare_with_empty(
    denoiser: Denoiser,
    clip: CachedClip,
    appearance: Tensor,
    empty: Tensor,
    sigma: Sigma,
    shift: float,
    seed: int,
) -> list[dict[str, float]]:
    """The base model's velocity loss on a clip, with the appearance prompt and with the empty prompt.

    The prediction for the appearance prompt is subtracted from the target. If this prompt predicts the clip
    no better than the empty prompt, the LoRA may learn the appearance; then there is a warning. Returns a row
    for each of a few noise levels.

    appearance: (1, L, D). empty: (L, D). shift: of the noise levels.
    """
    import torch

    from toolkit.training.batches import validation
    from toolkit.training.objectives import velocity_loss

    (batch,) = validation([clip], LEVELS, sigma, shift, seed)
    losses = []
    with torch.no_grad():
        for embeds in (appearance[0], empty):
            prompts = embeds.expand(LEVELS, -1, -1)
            losses.append(velocity_loss(denoiser, batch.latents, prompts, batch.sigma, batch.noise).tolist())
    gain = 1 - sum(losses[0]) / sum(losses[1])
    say(f"the appearance prompt explains {gain:.1%} of the base model's error on {clip.path.stem}")
    if gain <= 0:
        say(
            "warning: the empty prompt explains as much, so the LoRA may learn the appearance. Train the "
            "tokens longer (castmix learn-tokens), or describe place and style in motion.appearance, too"
        )
    return [
        {"sigma": round(level, 3), "appearance": round(mine, 5), "empty": round(none, 5)}
        for level, mine, none in zip(batch.sigma.tolist(), *losses, strict=True)
    ]
