"""Textual inversion (Gal et al. 2022): the vector of a special token is trained on a picture of a subject, or
on clips of a motion. The model is frozen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from toolkit.core.progress import say, track
from toolkit.core.seeds import generator_for
from toolkit.lora.special_tokens import Token, encode_with_tokens, substitute
from toolkit.models.flow_matching import interpolate, sample_sigmas, sigma_quantiles, velocity_target
from toolkit.models.interfaces import Denoiser, Encoders, ModelSpec
from toolkit.models.pixels import from_bytes
from toolkit.models.wan import clean_prompt
from toolkit.training.cached_clips import CachedClip
from toolkit.training.cutout import Cutout
from toolkit.training.mix import shuffled
from toolkit.training.settings import Sigma, Textual, Verb

CHECKED = 8
"""Number of noise levels at which a token is compared with its noun."""
_EVEN = torch.ones(())
"""Weight of all sites of a clip."""


@dataclass(frozen=True)
class TextualInversion:
    """Learns special tokens on one model.

    Attributes:
        spec: The model.
        encoders: Its encoders.
        denoiser: Its network.
        textual: Settings for subjects.
        sigma: Distribution of the noise levels.
        seed: Random seed.
    """

    spec: ModelSpec
    encoders: Encoders
    denoiser: Denoiser
    textual: Textual
    sigma: Sigma
    seed: int

    def learn_subject(self, token: str, noun: str, cutout: Cutout) -> Token:
        """Learn a subject's token from a picture, starting from its class noun. Prints both losses."""
        prompt = self.textual.prompt.replace("{subject}", token)
        latents, weights = self._picture(cutout)
        scale, width = noun_size(self.encoders, noun, self.textual.kind)
        vector = torch.zeros(width, requires_grad=True, device=self.denoiser.device)
        optimizer = torch.optim.Adam([vector], lr=self.textual.lr)
        embed = self._embedder(prompt, token, noun)
        for step in track(range(self.textual.steps), f"learning {token}"):
            levels, noise = self._draw(token, step, self.textual.batch_size, latents)
            loss = self._loss(embed(vector * scale), latents, weights, levels, noise).mean()
            (vector.grad,) = torch.autograd.grad(loss, vector)
            optimizer.step()
        learned = (vector * scale).detach().cpu()
        one = Token(noun, self.textual.kind, learned)
        before, after = (
            self.picture_loss(token, which, cutout)
            for which in (dataclasses.replace(one, vector=torch.zeros_like(learned)), one)
        )
        say(
            f"{token}: loss on its picture {before:.4f} as {noun!r}, {after:.4f} learned "
            f"({after / before - 1:+.1%})"
        )
        return one

    def picture_loss(self, token: str, one: Token, cutout: Cutout) -> float:
        """The loss on the picture with this vector for the token. Noise levels and noise are fixed."""
        latents, weights = self._picture(cutout)
        levels = sigma_quantiles(CHECKED, mean=self.sigma.mean, std=self.sigma.std, shift=self._shift())
        noise = torch.randn(
            (CHECKED, *latents.shape), generator=generator_for(self.seed, 0, f"check/{token}")
        )
        with torch.no_grad():
            embeds = encode_with_tokens(
                self.encoders, [self.textual.prompt.replace("{subject}", token)], {token: one}
            )
            return float(self._loss(embeds, latents, weights, levels, noise).mean())

    def learn_verb(
        self, token: str, words: Sequence[str], clips: Sequence[CachedClip], settings: Verb
    ) -> Token:
        """Learn a verb's token from cached clips whose captions contain it. Prints the losses.

        Training starts from those of `words` with the lowest loss on the clips, with one vector for each of
        their tokens. From words that the model does not know, a verb is learned slowly or not at all.
        """
        losses = {one: self._clips_loss(token, Token(one, "output", torch.zeros(0)), clips) for one in words}
        start = min(losses, key=lambda one: losses[one])
        if len(words) > 1:
            ranked = sorted(losses.items(), key=itemgetter(1))
            told = ", ".join(f"{one!r} {loss:.4f}" for one, loss in ranked)
            say(f"{token} starts from {start!r}; loss on the clips: {told}")
        noun = " ".join([start] * settings.repeat)
        (positions,) = self.encoders.token_positions(noun, [(0, len(noun))])
        size, width = noun_size(self.encoders, noun, "output")
        vectors = torch.zeros(len(positions), width, requires_grad=True, device=self.denoiser.device)
        optimizer = torch.optim.Adam([vectors], lr=settings.lr)
        fixed = [self._embedded(token, noun, clip) for clip in clips]
        for step in track(range(settings.steps), f"learning {token}"):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            (k,) = shuffled(len(clips), range(step, step + 1), seed=self.seed, what=f"clip/{token}")
            latents, (embeds, at) = clips[k].load()[0], fixed[k]
            levels, noise = self._draw(token, step, settings.batch_size, latents)
            added = embeds.index_add(1, at, (vectors * size).unsqueeze(0).to(embeds))
            loss = self._loss(added, latents, _EVEN, levels, noise).mean()
            (vectors.grad,) = torch.autograd.grad(loss, vectors)
            optimizer.step()
        one = Token(noun, "output", (vectors * size).detach().cpu(), verb=True)
        after = self._clips_loss(token, one, clips)
        say(
            f"{token}: loss on its clips {losses[start]:.4f} as {start!r}, {after:.4f} learned "
            f"({after / losses[start] - 1:+.1%})"
        )
        return one

    def _clips_loss(self, token: str, one: Token, clips: Sequence[CachedClip]) -> float:
        """The loss on clips with this vector for the verb. Noise levels and noise are fixed."""
        levels = sigma_quantiles(CHECKED, mean=self.sigma.mean, std=self.sigma.std, shift=self._shift())
        losses = []
        with torch.no_grad():
            for clip in clips:
                latents, (embeds, at) = clip.load()[0], self._embedded(token, one.noun, clip)
                if one.vector.numel():
                    embeds = embeds.index_add(1, at, one.vector.unsqueeze(0).to(embeds))
                noise = torch.randn(
                    (CHECKED, *latents.shape), generator=generator_for(self.seed, 0, f"check/{token}")
                )
                losses.append(self._loss(embeds, latents, _EVEN, levels, noise).mean())
        return float(torch.stack(losses).mean())

    def _embedded(self, token: str, noun: str, clip: CachedClip) -> tuple[Tensor, Tensor]:
        """The caption's embedding with the noun for the token, (1, L, D), and the noun's positions in it."""
        text, places = substitute(clean_prompt(clip.text), {token: noun})
        (positions,) = self.encoders.token_positions(text, [places[0][1:]])
        embeds = self.encoders.encode_text([text])
        return embeds, torch.tensor(positions, device=embeds.device)

    def _draw(self, token: str, step: int, count: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Noise levels (count,) and noise (count, C, f, h, w) of a step."""
        levels = sample_sigmas(
            count,
            mean=self.sigma.mean,
            std=self.sigma.std,
            shift=self._shift(),
            generator=generator_for(self.seed, step, f"sigma/{token}"),
        )
        generator = generator_for(self.seed, step, f"noise/{token}")
        return levels, torch.randn((count, *latents.shape), generator=generator)

    def _shift(self) -> float:
        return self.sigma.shift_or(self.spec.shift)

    def _embedder(self, prompt: str, token: str, noun: str) -> Callable[[Tensor], Tensor]:
        """A function from the vector to the prompt's embedding (1, L, D). For kind "output" the encoder runs
        only once."""
        if self.textual.kind == "input":
            return lambda vector: encode_with_tokens(
                self.encoders, [prompt], {token: Token(noun, "input", vector)}
            )
        text, places = substitute(clean_prompt(prompt), {token: noun})
        fixed = self.encoders.encode_text([text])
        where = torch.zeros(fixed.shape[1], 1, device=fixed.device)
        for positions in self.encoders.token_positions(text, [(start, end) for _, start, end in places]):
            where[list(positions)] = 1
        return lambda vector: fixed + where * vector.to(fixed)

    def _picture(self, cutout: Cutout) -> tuple[Tensor, Tensor]:
        """Latents (C, f, h, w) of the picture as a still video, and weights (h, w) of sites, of mean 1."""
        frame = from_bytes(torch.from_numpy(cutout.picture).permute(2, 0, 1))
        video = frame[None, :, None].expand(-1, -1, self.textual.frames, -1, -1)
        latents = self.encoders.encode_video(video)[0].cpu()
        mask = torch.from_numpy(cutout.mask)[None, None]
        sites = latents.shape[-2], latents.shape[-1]
        share = torch.nn.functional.adaptive_avg_pool2d(mask, sites)[0, 0]
        weights = share + (1 - share) * self.textual.background
        return latents, weights / weights.mean()

    def _loss(
        self, embeds: Tensor, latents: Tensor, weights: Tensor, levels: Tensor, noise: Tensor
    ) -> Tensor:
        """The weighted velocity loss at each noise level, (B,)."""
        device, count = self.denoiser.device, len(levels)
        x0, noise, levels = (
            latents.expand(count, -1, -1, -1, -1).to(device),
            noise.to(device),
            levels.to(device),
        )
        predicted = self.denoiser(interpolate(x0, noise, levels), levels, embeds.expand(count, -1, -1))
        error = (predicted.float() - velocity_target(x0, noise)).square()
        return (error * weights.to(device)).flatten(1).mean(1)


def noun_size(encoders: Encoders, noun: str, kind: str) -> tuple[float, int]:
    """Root mean square and width of a noun's embedding, after the text encoder (output) or before (input)."""
    rows = encoders.token_embeddings(noun)
    if kind == "output":
        rows = encoders.encode_text([noun])[0][list(encoders.token_positions(noun, [(0, len(noun))])[0])]
    return float(rows.square().mean().sqrt()), rows.shape[-1]
