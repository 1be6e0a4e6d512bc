"""A base model that stays in memory, with LoRAs that can be changed: for notebooks, pages and `generate`.

    studio = load("sandbox", lora=["runs/mine:0.8"])
    video = studio.generate("[Character: Mimi], jumps. [scene-style:cartoon]", seed=3)
    studio.use(subject=["mimi", "bruno"], motion="leans")

A prompt becomes a video in three steps: `Studio.encode` (prompt encoding), `Studio.sample` (a velocity
function from `samplers`, followed by `denoise`), and decoding into an `output.Video`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.lora.loading import LoraReference, LoraSet, load_loras, read_references
from toolkit.lora.special_tokens import class_nouns, encode_prompts, in_plain_words
from toolkit.models.flow_matching import sigma_schedule
from toolkit.models.interfaces import Denoiser, Encoders, Geometry, ModelSpec
from toolkit.models.registry import (
    default_device,
    find_model,
    fingerprint,
    load_denoiser,
    load_encoders,
    shape_of,
)
from toolkit.models.weights import latent_geometry
from toolkit.sampling.collaborative import Report
from toolkit.sampling.denoise import denoise, initial_noise
from toolkit.sampling.noise_inversion import clip_caption, mix_noise, motion_noise
from toolkit.sampling.output import Video, new_video
from toolkit.sampling.prompt_encoding import EncodedPrompts, encode_request
from toolkit.sampling.request import Request, check_batch, new_request, note_prompts
from toolkit.sampling.samplers import Network, kept_maps, log_lines, velocity_of
from toolkit.sampling.settings import Collaboration, Masked, Sampler, Sampling

LoraTexts = Sequence[str | Path] | str | Path
"""LoRA files or folders of runs, each with its weight after a colon (run/a:0.8)."""


@dataclass(frozen=True, eq=False)
class Job:
    """Prompts that are encoded and can be sampled.

    Attributes:
        texts: The prompts.
        request: How they are sampled.
        prompts: The encoded prompts.
        caption: (1, L, D), the motion clip's caption; None without a clip.
    """

    texts: tuple[str, ...]
    request: Request
    prompts: EncodedPrompts
    caption: Tensor | None


class Studio:
    """A base model in memory with LoRAs. Make one with `load`.

    Encoders and network are loaded when they are first needed, once. `with load(...) as studio:` or
    `studio.close()` takes the LoRAs out of the network again.
    """

    def __init__(
        self,
        spec: ModelSpec,
        geometry: Geometry,
        encoders: Encoders,
        load_network: Callable[[], Denoiser],
        base: str,
    ) -> None:
        self.spec, self.encoders, self.base = spec, encoders, base
        self.geometry = geometry
        self._load_network = load_network
        self._network: Denoiser | None = None
        self._attached = False
        self._inverted: dict[tuple[object, ...], Tensor] = {}
        self.loras = LoraSet()
        self.words: tuple[str, ...] = ()
        self.sampler: Sampler = "euler"
        self.collaboration, self.masked = Collaboration(), Masked()

    @property
    def denoiser(self) -> Denoiser:
        """The network with the LoRAs attached to it. Loaded at the first use."""
        if self._network is None:
            self._network = self._load_network()
        if not self._attached:
            self.loras.attach(self._network, self.base)
            self._attached = True
        return self._network

    def use(
        self,
        *,
        lora: LoraTexts = (),
        subject: LoraTexts = (),
        motion: LoraTexts | None = None,
        words: Sequence[str] = (),
        sampler: Sampler = "euler",
        collaboration: Collaboration = Collaboration(),
        masked: Masked = Masked(),
    ) -> Self:
        """Use these LoRAs instead of the present ones. The base model stays loaded.

        Args:
            lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8).
            subject: LoRAs of characters.
            motion: LoRAs of a motion.
            words: What the motion branch calls a subject: NAME=NOUN.
            sampler: euler sums all LoRAs; scs and scs-lite sample subjects and motion together.
            collaboration: Settings of scs and scs-lite.
            masked: Settings of a masked fusion.

        Raises:
            CastmixError: a LoRA that is missing, or does not fit the model. The present ones stay in use.
        """
        references = read_references(lora=lora, subject=subject, motion=motion)
        return self.use_references(references, words, sampler, collaboration, masked)

    def use_references(
        self,
        references: Sequence[LoraReference],
        words: Sequence[str] = (),
        sampler: Sampler = "euler",
        collaboration: Collaboration = Collaboration(),
        masked: Masked = Masked(),
    ) -> Self:
        """`use` for references that have been read."""
        before, loras = self.loras, load_loras(references)
        self._take_out()
        self.loras = loras
        try:
            if self._network is not None:
                _ = self.denoiser  # attach now, so that a LoRA that does not fit is refused here
        except CastmixError:
            self.loras = before
            raise
        self.words, self.sampler = tuple(words), sampler
        self.collaboration, self.masked = collaboration, masked
        return self

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        shift: float | None = None,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        motion_prompt: str | None = None,
    ) -> Video:
        """Generate one video. None means the model's setting.

        Args:
            prompt: What the video shows.
            seed: Of the initial noise; the same seed gives the same video.
            steps: Denoising steps; num_inference_steps is another name for it.
            num_frames: Frames, 4k+1.
            height: Pixels.
            width: Pixels.
            guidance_scale: Strength of the prompt; 1 is no guidance.
            shift: Shift of the noise levels towards noise.
            negative_prompt: Prompt that guidance leads away from.
            num_inference_steps: The same as steps.
            motion_prompt: The motion branch's prompt (sampler scs or scs-lite).

        Raises:
            CastmixError: a size that the model cannot make, or a number out of range.
        """
        if steps is not None and num_inference_steps is not None and steps != num_inference_steps:
            raise CastmixError(f"steps is {steps} and num_inference_steps {num_inference_steps}: give one")
        sampling = Sampling(
            sampler=self.sampler,
            steps=num_inference_steps if steps is None else steps,
            guidance_scale=guidance_scale,
            shift=shift,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            motion_prompt=() if motion_prompt is None else (motion_prompt,),
        )
        job = self.encode([prompt], self.request(sampling))
        total, *_ = job.request.number
        bar = iter(track(range(total), "generating"))
        (video,) = self.sample(job, range(1), [seed], lambda: next(bar, None))
        next(bar, None)  # the bar ends
        return video

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, f, h, w) of a video of that size.

        Raises:
            CastmixError: the model cannot make that size; the message has the nearest sizes that it can.
        """
        return shape_of(self.geometry, num_frames, height, width)

    def request(self, sampling: Sampling) -> Request:
        """The settings of a call, checked, with the model's own filled in."""
        return new_request(
            self.spec,
            self.loras.references,
            sampling=sampling,
            words=self.words,
            collaboration=self.collaboration,
            masked=self.masked,
        )

    def encode(self, prompts: Sequence[str], request: Request) -> Job:
        """Encode prompts. After it the text encoder may be freed: `studio.encoders.release_text()`."""
        check_batch(request, len(prompts), 1)
        note_prompts(prompts, [file.metadata for file in self.loras.files])
        encoded = encode_request(self.spec, self.encoders, prompts, self.loras, request)
        return Job(tuple(prompts), request, encoded, self._caption(request))

    def sample(
        self, job: Job, rows: range, seeds: Sequence[int], tick: Callable[[], object] = lambda: None
    ) -> list[Video]:
        """Videos of some prompts of a job, sampled as one batch. tick: called after each step."""
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise CastmixError(f"seed must be between 0 and 2^63 - 1, got {seed}")
        steps, _, shift, *size = job.request.number
        prompts, network = job.prompts.rows(rows), Network(self.denoiser, self.loras, job.request)
        noise = initial_noise(seeds, self.latent_shape(*size))
        if job.caption is not None:
            share = job.request.collaboration.inversion
            noise = mix_noise(self._motion_noise(job.request, job.caption), noise, share)
        noise = noise.to(self.denoiser.device)
        sigmas = sigma_schedule(steps, shift).to(noise.device)
        reports: list[Report] = []
        velocity = velocity_of(network, prompts, noise, sigmas, reports.append)
        latents = denoise(velocity, noise, sigmas, lambda step, latents: tick())
        return [
            self._video(job, row, seed, latents[k : k + 1], reports, k)
            for k, (row, seed) in enumerate(zip(rows, seeds, strict=True))
        ]

    def close(self) -> None:
        """Take the LoRAs out of the network. A pipeline that was given to `load` is then as it was before."""
        self._take_out()
        self.loras = LoraSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_out(self) -> None:
        if self._attached and self._network is not None:
            self.loras.detach(self._network)
        self._attached = False

    def _caption(self, request: Request) -> Tensor | None:
        """The motion clip's caption in words that the base model knows, (1, L, D); None without a clip."""
        clip = request.sampling.motion_clip
        if clip is None or request.collaboration.inversion == 0:
            return None
        words = {**class_nouns(self.loras.files, read_cast()), **request.words}
        return encode_prompts(self.encoders, [in_plain_words(clip_caption(clip), words)], ())

    def _motion_noise(self, request: Request, caption: Tensor) -> Tensor:
        """The motion clip's noise (1, C, f, h, w), inverted once."""
        steps, _, shift, *size = request.number
        clip, iterations = request.sampling.motion_clip, request.collaboration.iterations
        assert clip is not None
        key = (clip, steps, shift, *size, iterations)
        if key not in self._inverted:
            self._inverted[key] = motion_noise(
                clip,
                self.spec,
                self.encoders,
                self.denoiser,
                caption,
                size=(size[0], size[1], size[2]),
                steps=steps,
                shift=shift,
                iterations=iterations,
            )
        return self._inverted[key]

    def _video(
        self, job: Job, row: int, seed: int, latents: Tensor, reports: Sequence[Report], k: int
    ) -> Video:
        prompts, request = job.prompts, job.request
        facts: dict[str, Any] = {"prompt": job.texts[row], "seed": seed}
        extra: dict[str, Any] = {}
        if prompts.motion_prompts:
            facts["motion_prompt"] = prompts.motion_prompts[row]
            extra["log"] = tuple(log_lines(reports, k))
            if request.collaboration.keep_maps:
                extra |= {"maps": kept_maps(reports, k), "subjects": prompts.branch_subjects[row]}
        facts |= {"model": self.spec.name, "model_fingerprint": self.base, **request.facts()}
        facts |= {"fps": self.spec.fps, "loras": [one.facts() for one in self.loras.references]}
        facts |= request.collaboration_facts()
        if self.loras.confined:
            facts["masked"] = asdict(request.masked)
        return new_video(self.encoders.decode_video(latents)[0], self.spec.fps, facts, **extra)


def load(
    model: Any = "sandbox",
    *,
    like: str | None = None,
    device: str | None = None,
    lora: LoraTexts = (),
    subject: LoraTexts = (),
    motion: LoraTexts | None = None,
    words: Sequence[str] = (),
    sampler: Sampler = "euler",
    collaboration: Collaboration = Collaboration(),
    masked: Masked = Masked(),
) -> Studio:
    """A `Studio` of a base model, with LoRAs.

    Args:
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder, a hub id, or a diffusers
            `WanPipeline` that is in memory already. The pipeline is as it was after `studio.close()`.
        like: For a pipeline: the registry name whose steps, guidance, text length and fps hold.
        device: Where the model runs: cpu, cuda, cuda:1. Default: a GPU if there is one.
        lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8).
        subject: LoRAs of characters.
        motion: LoRAs of a motion.
        words: What the motion branch calls a subject: NAME=NOUN.
        sampler: euler sums all LoRAs; scs and scs-lite sample subjects and motion together.
        collaboration: Settings of scs and scs-lite.
        masked: Settings of a masked fusion.

    Raises:
        CastmixError: a missing model or LoRA, or a LoRA that does not fit.
    """
    if isinstance(model, (str, Path, ModelSpec)):
        if like is not None:
            raise CastmixError(f"like={like!r} is for a WanPipeline in memory; {model} has its own settings")
        spec = find_model(model if isinstance(model, ModelSpec) else str(model))
        where = device or default_device()
        studio = Studio(
            spec,
            latent_geometry(spec),
            load_encoders(spec, where),
            lambda: load_denoiser(spec, where),
            fingerprint(spec),
        )
    else:
        from toolkit.models.loaded_pipeline import wrap_pipeline

        if device is not None:
            raise CastmixError("device is the pipeline's own: move the pipeline, then load it")
        loaded = wrap_pipeline(model, like)
        studio = Studio(loaded.spec, loaded.geometry, loaded.encoders, lambda: loaded.denoiser, "")
    references = read_references(lora=lora, subject=subject, motion=motion)
    return studio.use_references(references, words, sampler, collaboration, masked)
