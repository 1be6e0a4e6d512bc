"""How well somebody is followed in real footage: ``python benchmarks/segmentation.py FOOTAGE``.

FOOTAGE/masks/NAME has the pictures of a DAVIS sequence (frames/, or one video) and their masks (masks/).
Each backend gets the true box of the first frame and nothing else; J and F are means over all frames. The
sandbox's SAM 2 was trained on drawn creatures only and is expected to be poor here.

``python benchmarks/segmentation.py --drawn 16`` measures it on drawn clips instead, 16 of each kind:
the table of docs/segmentation.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # run as a script, it finds this checkout's toolkit

from toolkit.captions.cast import read_cast  # noqa: E402
from toolkit.commands.segment import SEGMENTERS  # noqa: E402
from toolkit.footage.clips import Clip  # noqa: E402
from toolkit.footage.video import read_video, write_video  # noqa: E402
from toolkit.sandbox.sam2_model.report import measure_reference, measure_sam2, table  # noqa: E402
from toolkit.segmentation.interfaces import Options, Prompt  # noqa: E402
from toolkit.segmentation.mask_iou import box_of, mean_j_and_f  # noqa: E402

FPS = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("footage", type=Path, nargs="?")
    parser.add_argument("--drawn", type=int, metavar="CLIPS", help="drawn clips of each kind instead")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn clips")
    parser.add_argument("--backends", nargs="+", default=["carry", "sam2"], choices=sorted(SEGMENTERS))
    parser.add_argument("--checkpoint", default="sandbox", help="for sam2")
    parser.add_argument("--save", type=Path, help="write each backend's masks beside the truth, as pictures")
    args = parser.parse_args()
    if args.drawn:
        with tempfile.TemporaryDirectory() as name:
            own = {"folder": Path(name), "clips": args.drawn, "seed": args.seed}
            print(table(measure_sam2(args.checkpoint, **own), measure_reference(args.checkpoint, **own)))
        return
    if args.footage is None:
        parser.error("give a folder of footage, or --drawn")
    for folder in sorted(path for path in (args.footage / "masks").iterdir() if path.is_dir()):
        frames, truth = _pictures(folder), _masks(folder / "masks")
        for backend in args.backends:
            began = time.process_time()
            masks = follow(frames, truth[0], backend, args.checkpoint)
            took = (time.process_time() - began) / len(frames)
            j, f = mean_j_and_f(list(masks), list(truth))
            print(f"{folder.name}, {backend}: J {j:.2f}, F {f:.2f}, {took:.2f} s of CPU a frame", flush=True)
            if args.save:
                _show(args.save / f"{folder.name}-{backend}.png", frames, masks, truth)


def follow(
    frames: NDArray[np.uint8], first: NDArray[np.uint8], backend: str, checkpoint: str
) -> NDArray[np.uint8]:
    """Masks (F, H, W) of whom the first frame's true mask covers."""
    box = box_of(first >= 128)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "clip.mp4"
        height, width = frames.shape[1:3]
        even = frames[:, : height // 2 * 2, : width // 2 * 2]
        write_video(path, even, FPS, crf=1)
        clip = Clip(path, "", "", 0.0, len(even) / FPS, FPS, len(even), width, height, 0)
        propagate = SEGMENTERS[backend](Options(checkpoint, None, None, read_cast(), None))
        masks = np.zeros(frames.shape[:3], np.uint8)

        def store(frame: int, _: str, mask: NDArray[np.uint8]) -> None:
            masks[frame, : mask.shape[0], : mask.shape[1]] = mask

        propagate(clip, {"it": Prompt(0, box)}, store)
    return masks


def _pictures(folder: Path) -> NDArray[np.uint8]:
    """The frames of a sequence, (F, H, W, 3)."""
    if (folder / "frames").is_dir():
        paths: Iterable[Path] = sorted((folder / "frames").iterdir())
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return read_video(next(folder.rglob("*.mp4")))[0]


def _masks(folder: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path).convert("L")) for path in sorted(folder.rglob("*.png"))])


def _show(path: Path, frames: NDArray[np.uint8], masks: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    """Six frames: who was found in green, who is there in red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = []
    for k in np.linspace(0, len(frames) - 1, 6).astype(int):
        picture = frames[k] // 2
        picture[..., 1] += (masks[k] >= 128).astype(np.uint8) * 120
        picture[..., 0] += (truth[k] >= 128).astype(np.uint8) * 120
        row.append(picture[::3, ::3])
    Image.fromarray(np.concatenate(row, 1)).save(path)


if __name__ == "__main__":
    main()
