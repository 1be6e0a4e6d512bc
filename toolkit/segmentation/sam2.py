"""Backend "sam2": SAM 2 and 2.1 through transformers (Ravi et al., "SAM 2: Segment Anything in Images and
Videos", 2024), without its processors, which need torchvision.

Every character has a memory of its own and is followed from its own prompt, forwards to the end and then
backwards to the beginning; characters share what the image encoder says of a frame. Memory does not grow with
the clip: a session keeps what the model looks back on, the frames near the prompt and those near the present,
and the frames of the way back wait on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames, VideoReader
from toolkit.footage.frame_spool import Spool
from toolkit.models.registry import default_device
from toolkit.models.weights import local_folder
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, Put

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Sam2VideoInferenceSession, Sam2VideoModel

SANDBOX = Path(__file__).resolve().parent.parent / "sandbox" / "sam2"
"""Where the sandbox's own small SAM 2 lies."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of colours in 0..1, as all SAM 2 models want them taken off."""


def sam2(options: Options) -> Propagate:
    """Follow characters with the SAM 2 model `options.checkpoint`, on `options.device`.

    Raises:
        CastmixError: The checkpoint is not there, or is not a SAM 2 video model; for a clip, a prompt outside
            of it, or a file with other frames than its json says.
    """
    return propagator(load_sam2(options.checkpoint, options.device))


def load_sam2(checkpoint: str, device: str | None = None) -> Sam2VideoModel:
    """A SAM 2 video model in float32, ready to run.

    Args:
        checkpoint: A folder, a hub id that was fetched before, or "sandbox".
        device: Where it runs; a GPU if there is one, when left out.

    Raises:
        CastmixError: It is not there, cannot be read, or is another kind of model.
    """
    import torch
    from transformers import AutoConfig, Sam2VideoModel

    if checkpoint == "sandbox" and not (SANDBOX / "config.json").exists():
        raise CastmixError(
            f"the sandbox's SAM 2 is missing ({SANDBOX}): make it with `castmix sandbox pretrain-sam2 --out "
            f"FOLDER` and give --checkpoint FOLDER/sam2"
        )
    folder = local_folder(str(SANDBOX) if checkpoint == "sandbox" else checkpoint)
    if folder is None:
        raise CastmixError(
            f"--checkpoint {checkpoint} is not on this machine: fetch it with `hf download {checkpoint}`, "
            "give the folder of a SAM 2 or 2.1 model, or take --checkpoint sandbox"
        )
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != "sam2_video":
            raise CastmixError(
                f"--checkpoint {checkpoint} is a {kind} model: expected SAM 2 with its memory (sam2_video), "
                "as facebook/sam2.1-hiera-tiny"
            )
        model, report = Sam2VideoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"--checkpoint {checkpoint} cannot be loaded: {reason:.300}") from error
    if missing := sorted(report["missing_keys"]):
        raise CastmixError(
            f"--checkpoint {checkpoint} lacks {len(missing)} weights of a SAM 2 video model, {missing[0]} "
            "among them: fetch it again"
        )
    ready: Sam2VideoModel = model.to(device or default_device()).eval()
    return ready


def propagator(model: Sam2VideoModel, watch: Callable[[Sequence[Track]], None] | None = None) -> Propagate:
    """The backend with a model at hand. `watch` gets all tracks after every frame, for tests."""

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], put: Put) -> None:
        if not prompts:
            return
        for name, prompt in prompts.items():
            if not 0 <= prompt.frame < clip.num_frames:
                raise CastmixError(
                    f"{clip.path}: the prompt of {name} is in frame {prompt.frame}, but there are frames 0 "
                    f"to {clip.num_frames - 1}"
                )
        size = (clip.num_frames, clip.height, clip.width)
        tracks = [Track(model, prompt, size, name) for name, prompt in prompts.items()]
        for one in tracks:  # what the image encoder says of the present frame is the same for all
            one.session.cache = tracks[0].session.cache
        first, last = (pick(one.prompt.frame for one in tracks) for pick in (min, max))
        number = -1
        with Spool() as passed, VideoReader(clip.path) as reader:
            for number, frame in enumerate(reader):
                picture = frame.rgb()
                if number < last:
                    passed.put(number, picture)
                if number >= first:
                    _visit(model, tracks, number, picture, put, reverse=False)
                    if watch:
                        watch(tracks)
            if reader.lost or reader.failure or number + 1 != clip.num_frames:
                raise CastmixError(
                    f"{clip.path} has {number + 1} frames that can be read, its json says {clip.num_frames}: "
                    "prepare it again"
                )
            for number in range(last - 1, -1, -1):
                _visit(model, tracks, number, passed.get(number), put, reverse=True)
                if watch:
                    watch(tracks)

    return propagate


def _visit(
    model: Sam2VideoModel, tracks: Sequence[Track], number: int, picture: Frames, put: Put, *, reverse: bool
) -> None:
    """Put the masks of one frame: of the characters whose prompt lies behind, in the direction of travel."""
    due = [one for one in tracks if (number < one.prompt.frame) == reverse]
    if due:
        pixels = to_pixels(picture[None], model.config.image_size).to(model.device)[0]
    for one in due:
        put(number, one.name, one.step(number, pixels, reverse=reverse))


def to_pixels(
    frames: Frames, size: int | tuple[int, int], norm: tuple[tuple[float, ...], ...] = IMAGENET
) -> Tensor:
    """Frames (N, H, W, 3) uint8 stretched to `size` and normalised, as models take them: (N, 3, *size)."""
    import torch
    from torch.nn import functional

    pixels = torch.tensor(frames).movedim(-1, 1).float() / 255
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in norm)
    return (pixels - mean) / std


def to_mask(logits: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """The mask (height, width), 255 where logits (h, w), enlarged bilinearly, are above 0."""
    from torch.nn import functional

    large = functional.interpolate(logits[None, None].float(), size=(height, width), mode="bilinear")
    return np.asarray((large[0, 0] > 0).cpu().numpy(), np.uint8) * np.uint8(255)


@dataclass
class Present:
    """What a session has for its video: it is as long as the clip, but only the present frame is there."""

    length: int
    number: int = -1
    pixels: Any = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Tensor:
        if number != self.number:
            raise KeyError(f"frame {number} is not at hand, only {self.number}")
        pixels: Tensor = self.pixels
        return pixels


class Track:
    """One character in a clip of `size` (F, H, W), and what the model remembers of it.

    Attributes:
        session: The model's memory of this character.
    """

    def __init__(
        self, model: Sam2VideoModel, prompt: Prompt, size: tuple[int, int, int], name: str = ""
    ) -> None:
        from transformers import Sam2VideoInferenceSession

        self.model, self.prompt, self.name = model, prompt, name
        frames, self.height, self.width = size
        self.session: Sam2VideoInferenceSession = Sam2VideoInferenceSession(
            video_height=self.height, video_width=self.width,
            inference_device=model.device, inference_state_device=model.device, dtype=model.dtype,
        )  # fmt: skip
        self.session.processed_frames = Present(frames)
        points, labels = _as_points(prompt)
        scale = model.config.image_size / np.asarray([self.width, self.height])
        number = self.session.obj_id_to_idx(1)
        self.session.add_point_inputs(number, prompt.frame, _tensors(points * scale, labels))
        self.session.obj_with_new_inputs.append(1)

    def step(self, number: int, pixels: Tensor, *, reverse: bool = False) -> NDArray[np.uint8]:
        """The mask in a frame, 255 or 0; `pixels` (3, S, S) as `to_pixels` makes them.

        The prompt's frame comes first, then its neighbours, one after the other.
        """
        frames = self.session.processed_frames
        frames.number, frames.pixels = number, pixels
        out = self.model(inference_session=self.session, frame_idx=number, reverse=reverse)
        mask = to_mask(out.pred_masks[0, 0], self.height, self.width)
        self._forget(number)
        return mask

    def _forget(self, now: int) -> None:
        """Drop what the model will not look back on, here or at the beginning of the way back."""
        config, known = self.model.config, self.session.output_dict_per_obj[0]
        tracked = known["non_cond_frame_outputs"]
        for number in list(tracked):
            age = min(abs(number - now), abs(number - self.prompt.frame))
            if age >= max(config.num_maskmem, config.max_object_pointers_in_encoder):
                del tracked[number]
            elif age >= config.num_maskmem:  # a pointer is all that is read of it
                tracked[number] = {"object_pointer": tracked[number]["object_pointer"]}
        for output in (*tracked.values(), *known["cond_frame_outputs"].values()):
            output.pop("high_res_masks", None)
            output.pop("pred_masks", None)
        self.session.frames_tracked_per_obj[0].clear()


def _as_points(prompt: Prompt) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Points (P, 2) and labels (P,) as SAM 2 takes a prompt: a box is two points with labels 2 and 3."""
    corners = [prompt.box[:2], prompt.box[2:]] if prompt.box is not None else []
    points = [*corners, *((x, y) for x, y, _ in prompt.points)]
    labels = [2, 3][: len(corners)] + [int(is_it) for *_, is_it in prompt.points]
    if not points:
        raise CastmixError(f"a prompt in frame {prompt.frame} has neither a box nor points: give it one")
    return np.asarray(points, np.float64), np.asarray(labels, np.int32)


def _tensors(points: NDArray[np.float64], labels: NDArray[np.int32]) -> dict[str, Tensor]:
    import torch

    coords = torch.from_numpy(points.astype(np.float32))[None, None]
    return {"point_coords": coords, "point_labels": torch.from_numpy(labels)[None, None]}
