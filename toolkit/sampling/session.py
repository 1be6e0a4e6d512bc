"""A base model that stays in memory, with LoRAs that can be exchanged: for notebooks, pages and `generate`.

    studio = load("sandbox", lora=["runs/mine:0.8"])
    video = studio.generate("[Character: Mimi], jumps. [scene-style:cartoon]", seed=3)
    studio.use(subject=["mimi", "bruno"], motion="leans")

`Studio` keeps the model and the LoRAs. How a prompt becomes a video is in `pipeline`: encode, sample, decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.lora.loading import LoraReference, LoraSet, load_loras, read_references
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
from toolkit.sampling.output import Video
from toolkit.sampling.pipeline import Job, LoadedModel, encode_job, sample_videos
from toolkit.sampling.request import Request, check_batch, new_request
from toolkit.sampling.settings import Collaboration, Masked, Sampler, Sampling

LoraTexts = Sequence[str | Path] | str | Path
"""LoRA files or folders of runs, each with its weight after a colon (run/a:0.8)."""


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
        self._attached = self._closed = False
        self.loras = LoraSet()
        self.words: tuple[str, ...] = ()
        self.sampler: Sampler = "euler"
        self.motion_clip: Path | None = None
        self.collaboration, self.masked = Collaboration(), Masked()

    @property
    def denoiser(self) -> Denoiser:
        """The network with the LoRAs attached to it. Loaded at the first use."""
        if self._closed:
            raise CastmixError("this studio is closed: make another one with castmix.load")
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
        motion_clip: Path | None = None,
        collaboration: Collaboration = Collaboration(),
        masked: Masked = Masked(),
    ) -> Self:
        """Use these LoRAs and settings instead of all present ones. The base model stays loaded.

        What is not named gets its default: `studio.use()` is the base model alone.

        Args:
            lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8).
            subject: LoRAs of characters.
            motion: LoRAs of a motion.
            words: What the motion branch calls a subject: NAME=NOUN.
            sampler: euler sums all LoRAs; scs and scs-lite sample subjects and motion together.
            motion_clip: The clip of the motion; its inverted noise is mixed into the initial noise.
            collaboration: Settings of scs and scs-lite.
            masked: Settings of a masked fusion.

        Raises:
            CastmixError: a LoRA that is missing or does not fit the model, or a setting out of range. Then
                the present LoRAs and settings stay in use.
        """
        references = read_references(lora=lora, subject=subject, motion=motion)
        return self.use_references(references, words, sampler, motion_clip, collaboration, masked)

    def use_references(
        self,
        references: Sequence[LoraReference],
        words: Sequence[str] = (),
        sampler: Sampler = "euler",
        motion_clip: Path | None = None,
        collaboration: Collaboration = Collaboration(),
        masked: Masked = Masked(),
    ) -> Self:
        """`use` for references that have been read."""
        clip = None if motion_clip is None else Path(motion_clip)
        new_request(
            self.spec,
            references,
            sampling=Sampling(sampler=sampler, motion_clip=clip),
            words=words,
            collaboration=collaboration,
            masked=masked,
        )
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
        self.motion_clip, self.collaboration, self.masked = clip, collaboration, masked
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
        if not isinstance(prompt, str) or not prompt.strip():
            raise CastmixError(f"prompt must be one text, got {prompt!r}: call generate once for each prompt")
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
            motion_clip=self.motion_clip,
        )
        job = self.encode([prompt], self.request(sampling))
        bar = iter(track(range(job.request.numbers.steps), "generating"))
        (video,) = self.sample(job, range(1), [seed], lambda: next(bar, None))
        next(bar, None)  # close the progress bar
        return video

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, f, h, w) of a video of that size.

        Raises:
            CastmixError: the model cannot make that size; the message has the nearest sizes that it can.
        """
        return shape_of(self.geometry, num_frames, height, width)

    def request(self, sampling: Sampling) -> Request:
        """Check the settings of a call and fill in the model's defaults."""
        return new_request(
            self.spec,
            self.loras.references,
            sampling=sampling,
            words=self.words,
            collaboration=self.collaboration,
            masked=self.masked,
        )

    def encode(self, prompts: Sequence[str], request: Request) -> Job:
        """Encode prompts. `studio.encoders.release_text_encoder()` may be called afterwards."""
        check_batch(request, len(prompts), 1)
        return encode_job(self.spec, self.encoders, self.loras, prompts, request)

    def sample(
        self, job: Job, rows: range, seeds: Sequence[int], tick: Callable[[], object] = lambda: None
    ) -> list[Video]:
        """Videos of some prompts of a job, sampled as one batch. tick: called after each step."""
        model = LoadedModel(self.spec, self.geometry, self.base, self.encoders, self.denoiser)
        return sample_videos(job, model, self.loras, rows, seeds, tick)

    def close(self) -> None:
        """Take the LoRAs out of the network. A pipeline that was given to `load` is then as it was before."""
        self._take_out()
        self._closed = True

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
    motion_clip: Path | None = None,
    collaboration: Collaboration = Collaboration(),
    masked: Masked = Masked(),
) -> Studio:
    """A `Studio` of a base model, with LoRAs.

    Args:
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder, a hub id, or a diffusers
            `WanPipeline` that is in memory already. The pipeline is as it was after `studio.close()`.
        like: For a pipeline: the registry name whose steps, guidance, text length and fps hold.
        device: Where the model runs: cpu, cuda, cuda:1. Default: a GPU if there is one.
        lora, subject, motion, words, sampler, motion_clip, collaboration, masked: See `Studio.use`.

    Returns:
        The studio, with the network in memory. Text encoder and VAE are loaded at the first video.

    Raises:
        CastmixError: a missing model or LoRA, a LoRA that does not fit, or a setting out of range.
    """
    references = read_references(lora=lora, subject=subject, motion=motion)
    studio = new_studio(model, like=like, device=device)
    studio.use_references(references, words, sampler, motion_clip, collaboration, masked)
    _ = studio.denoiser  # load it now, so that a LoRA that does not fit is refused here
    return studio


def new_studio(model: Any, *, like: str | None = None, device: str | None = None) -> Studio:
    """`load` without LoRAs, before anything is in memory: `generate` encodes its prompts first."""
    if not isinstance(model, (str, Path, ModelSpec)):
        from toolkit.models.loaded_pipeline import wrap_pipeline

        if device is not None:
            raise CastmixError("device is the pipeline's own: move the pipeline, then load it")
        loaded = wrap_pipeline(model, like)
        return Studio(loaded.spec, loaded.geometry, loaded.encoders, lambda: loaded.denoiser, "")
    if like is not None:
        raise CastmixError(f"like={like!r} is for a WanPipeline in memory; {model} has its own settings")
    spec, where = find_model(str(model) if isinstance(model, Path) else model), device or default_device()
    encoders, geometry = load_encoders(spec, where), latent_geometry(spec)
    return Studio(spec, geometry, encoders, lambda: load_denoiser(spec, where), fingerprint(spec))
