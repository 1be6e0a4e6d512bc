"""Backend "sam2": tracks characters with SAM 2 or 2.1 through transformers.

(Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024.) The processors of transformers are not
used, because they need torchvision.

Each character has its own memory and its own prompt. It is tracked from the prompt's frame forwards to the
end, then backwards to the beginning. All characters share the image encoder's features of a frame. Memory use
does not grow with the clip: a session keeps only what the model can look back on, which is near the prompt
and near the current frame. Frames for the backward pass wait on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames, VideoReader
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.models.registry import default_device
from toolkit.models.weights import local_folder
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, StoreMask

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Sam2VideoInferenceSession, Sam2VideoModel

SANDBOX = Path(__file__).resolve().parent.parent / "sandbox" / "sam2"
"""Folder of the sandbox's own small SAM 2."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of RGB in 0..1, with which SAM 2 models normalise their input."""


def sam2_tracker(options: Options) -> Propagate:
    """A tracker with the SAM 2 model `options.checkpoint` on `options.device`.

    Raises:
        CastmixError: The checkpoint is missing or is not a SAM 2 video model. The tracker raises it if a
            prompt is outside the clip, or if the video does not have the frames that its json states.
    """
    return tracker_with(load_sam2(options.checkpoint, options.device))


def load_sam2(checkpoint: str, device: str | None = None) -> Sam2VideoModel:
    """Load a SAM 2 video model in float32, in evaluation mode.

    Args:
        checkpoint: A folder, the hub id of a downloaded model, or "sandbox".
        device: Device of the model. Default: a GPU if there is one.

    Raises:
        CastmixError: The checkpoint is missing, cannot be read, or is another kind of model.
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
            f"--checkpoint {checkpoint} is not on this machine: download it with `hf download {checkpoint}`, "
            "give the folder of a SAM 2 or 2.1 model, or use --checkpoint sandbox"
        )
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != "sam2_video":
            raise CastmixError(
                f"--checkpoint {checkpoint} is a {kind} model: expected SAM 2 for video (sam2_video), "
                "for example facebook/sam2.1-hiera-tiny"
            )
        model, report = Sam2VideoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"--checkpoint {checkpoint} cannot be loaded: {reason:.300}") from error
    if missing := sorted(report["missing_keys"]):
        raise CastmixError(
            f"--checkpoint {checkpoint} lacks {len(missing)} weights of a SAM 2 video model, for example "
            f"{missing[0]}: download it again"
        )
    ready: Sam2VideoModel = model.to(device or default_device()).eval()
    return ready


def tracker_with(model: Sam2VideoModel) -> Propagate:
    """A tracker with a loaded model."""

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        if not prompts:
            return
        for name, prompt in prompts.items():
            if not 0 <= prompt.frame < clip.num_frames:
                raise CastmixError(
                    f"{clip.path}: the prompt of {name} is in frame {prompt.frame}, expected 0 to "
                    f"{clip.num_frames - 1}"
                )
        size = (clip.num_frames, clip.height, clip.width)
        tracks = [Track(model, prompt, size, name) for name, prompt in prompts.items()]
        for one in tracks:  # image features of the current frame are the same for all
            one.session.cache = tracks[0].session.cache
        first, last = (pick(one.prompt.frame for one in tracks) for pick in (min, max))
        number = -1
        with DiskArrays() as earlier, VideoReader(clip.path) as reader:
            for number, frame in enumerate(reader):
                picture = frame.rgb()
                if number < last:
                    earlier.put(number, picture)
                if number >= first:
                    _track_frame(model, tracks, number, picture, store, reverse=False)
            if reader.lost or reader.failure or number + 1 != clip.num_frames:
                raise CastmixError(
                    f"{clip.path} has {number + 1} readable frames, its json says {clip.num_frames}: "
                    "prepare the clip again"
                )
            for number in range(last - 1, -1, -1):
                _track_frame(model, tracks, number, earlier.get(number), store, reverse=True)

    return propagate


def _track_frame(
    model: Sam2VideoModel,
    tracks: Sequence[Track],
    number: int,
    picture: Frames,
    store: StoreMask,
    *,
    reverse: bool,
) -> None:
    """Store the masks of one frame, of those characters whose prompt this pass has already reached."""
    reached = [one for one in tracks if (number < one.prompt.frame) == reverse]
    if reached:
        pixels = to_pixels(picture[None], model.config.image_size).to(model.device)[0]
    for one in reached:
        store(number, one.name, one.step(number, pixels, reverse=reverse))


def to_pixels(
    frames: Frames, size: int | tuple[int, int], norm: tuple[tuple[float, ...], ...] = IMAGENET
) -> Tensor:
    """Frames (N, H, W, 3) uint8 as model input: stretched to `size` and normalised, (N, 3, *size)."""
    import torch
    from torch.nn import functional

    pixels = torch.tensor(frames).movedim(-1, 1).float() / 255
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in norm)
    return (pixels - mean) / std


def to_mask(logits: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """The mask (height, width): 255 where the bilinearly enlarged logits (h, w) are above 0, else 0."""
    from torch.nn import functional

    large = functional.interpolate(logits[None, None].float(), size=(height, width), mode="bilinear")
    return np.asarray((large[0, 0] > 0).cpu().numpy(), np.uint8) * np.uint8(255)


@dataclass
class CurrentFrame:
    """The video of a session: it has the clip's length, but holds only the current frame.

    Attributes:
        length: Frames of the clip.
        number: Index of the current frame.
        pixels: The current frame, (3, S, S).
    """

    length: int
    number: int = -1
    pixels: Any = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Tensor:
        if number != self.number:
            raise KeyError(f"frame {number} is not loaded, only frame {self.number} is")
        pixels: Tensor = self.pixels
        return pixels


class Track:
    """One character in a clip of `size` (F, H, W), with the model's memory of it.

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
        self.session.processed_frames = CurrentFrame(frames)
        points, labels = _as_points(prompt)
        scale = model.config.image_size / np.asarray([self.width, self.height])
        number = self.session.obj_id_to_idx(1)
        self.session.add_point_inputs(number, prompt.frame, _tensors(points * scale, labels))
        self.session.obj_with_new_inputs.append(1)

    def step(self, number: int, pixels: Tensor, *, reverse: bool = False) -> NDArray[np.uint8]:
        """The mask in a frame, (H, W), 255 or 0; `pixels` (3, S, S) are made by `to_pixels`.

        Call it for the prompt's frame first, then for consecutive frames.
        """
        frames = self.session.processed_frames
        frames.number, frames.pixels = number, pixels
        out = self.model(inference_session=self.session, frame_idx=number, reverse=reverse)
        mask = to_mask(out.pred_masks[0, 0], self.height, self.width)
        self._drop_old_memory(number)
        return mask

    def _drop_old_memory(self, now: int) -> None:
        """Drop outputs that are not read again, neither now nor at the start of the reverse pass."""
        config, known = self.model.config, self.session.output_dict_per_obj[0]
        tracked = known["non_cond_frame_outputs"]
        for number in list(tracked):
            age = min(abs(number - now), abs(number - self.prompt.frame))
            if age >= max(config.num_maskmem, config.max_object_pointers_in_encoder):
                del tracked[number]
            elif age >= config.num_maskmem:  # the model reads only the pointer
                tracked[number] = {"object_pointer": tracked[number]["object_pointer"]}
        for output in (*tracked.values(), *known["cond_frame_outputs"].values()):
            output.pop("high_res_masks", None)
            output.pop("pred_masks", None)
        self.session.frames_tracked_per_obj[0].clear()


def _as_points(prompt: Prompt) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Points (P, 2) and labels (P,) in SAM 2's convention: a box is two points with labels 2 and 3."""
    corners = [prompt.box[:2], prompt.box[2:]] if prompt.box is not None else []
    points = [*corners, *((x, y) for x, y, _ in prompt.points)]
    labels = [2, 3][: len(corners)] + [int(is_positive) for *_, is_positive in prompt.points]
    if not points:
        raise CastmixError(f"the prompt in frame {prompt.frame} has neither a box nor points: give one")
    return np.asarray(points, np.float64), np.asarray(labels, np.int32)


def _tensors(points: NDArray[np.float64], labels: NDArray[np.int32]) -> dict[str, Tensor]:
    import torch

    coords = torch.from_numpy(points.astype(np.float32))[None, None]
    return {"point_coords": coords, "point_labels": torch.from_numpy(labels)[None, None]}
