"""`castmix fuse`: several LoRAs that were trained apart into one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core.choices import choose
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.fusion.settings import Distil, Examples, FusedFile, MethodName, Sparse, Squares
from toolkit.lora.settings import LORA_FILE
from toolkit.models.registry import find_model

if TYPE_CHECKING:
    from toolkit.lora.file import Lora
    from toolkit.lora.parts import Part


def fuse(
    loras: list[str],
    out: Path,
    *,
    method: MethodName = "weighted",
    model: str = "sandbox",
    subjects: Sequence[str] = (),
    seed: int = 0,
    restart: bool = False,
    examples: Examples = Examples(),
    distil: Distil = Distil(),
    sparse: Sparse = Sparse(),
    squares: Squares = Squares(),
    file: FusedFile = FusedFile(),
) -> Path:
    """Fuse separately trained LoRAs into one file.

    weighted, svd, ties, dare and masked use the weights alone and take seconds. least-squares and gradient
    also run the LoRAs on cached clips. In castmix, each LoRA of a masked fusion changes only the region of
    its subjects; for other programs the file is the plain weighted sum.

    Args:
        loras: LoRA files or folders of runs, each with a weight after a colon (run/a:0.8). Default weight: 1.
        out: A .safetensors file, or a folder for lora.safetensors. run.yaml is written beside it.
        method: The fusion method.
        model: Base model of least-squares and gradient: sandbox, wan2.1-t2v-1.3b, a local folder or a hub id.
        subjects: Names or tokens of the subjects of a LoRA, separated by commas; once for each LoRA, in
            order. Default: as written in the files.
        seed: Random seed.
        restart: Start again from step 0 instead of resuming (gradient).
        examples: Cached clips that least-squares and gradient run the LoRAs on.
        distil: How gradient trains the fused LoRA.
        sparse: What ties and dare keep of each LoRA.
        squares: How least-squares measures the LoRAs.
        file: The fused file.

    Returns:
        The path of the fused LoRA.

    Raises:
        CastmixError: a LoRA that cannot be read, LoRAs of different models, missing clips, invalid settings.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    arguments = {**locals(), "restart": False}
    path, work = _paths(Path(out))
    parts = _read_parts(loras, subjects)

    from toolkit.fusion.job import Job, fused_lora
    from toolkit.fusion.methods import METHODS

    job = Job(find_model(model), work, examples, file.rank, seed, restart, sparse, squares, distil)
    tensors, facts = choose(METHODS, method, "method")(parts, job)
    made = fused_lora(parts, tensors, method, facts)
    _save(made, path, file)
    told = {name: fact for name, fact in facts.items() if name != "ranks"}
    record = work / "run.yaml" if path.parent == work else path.with_suffix(".run.yaml")
    prints = {"loras": [part.fingerprint for part in parts], "fused": fingerprint_file(path)}
    write_run(record, "fuse", arguments, fingerprints=prints, **told)
    say(f"fused {len(parts)} LoRAs ({method}), rank {made.rank}" + (f", {json.dumps(told)}" if told else ""))
    return path


def _save(lora: Lora, path: Path, file: FusedFile) -> None:
    import torch

    from toolkit.lora.file import save_lora

    save_lora(lora, path, dtype=getattr(torch, file.save_dtype))


def _paths(out: Path) -> tuple[Path, Path]:
    """The file to write, and a folder for the state of the fusion."""
    if out.suffix and out.suffix != ".safetensors" and not out.is_dir():
        raise CastmixError(f"--out {out}: a LoRA is written as .safetensors, or into a folder")
    if out.suffix == ".safetensors" and not out.is_dir():
        return out, out.with_suffix("")
    return out / LORA_FILE, out


def _read_parts(loras: Sequence[str], subjects: Sequence[str]) -> list[Part]:
    """The LoRAs with a weight other than 0."""
    from toolkit.fusion.job import check_fit, note_nested, note_single_characters, read_part

    if subjects and len(subjects) != len(loras):
        raise CastmixError(
            f"{len(loras)} LoRAs and {len(subjects)} --subjects: give --subjects once for each LoRA, in "
            "order, with commas between names"
        )
    named = [[name.strip() for name in text.split(",") if name.strip()] for text in subjects]
    read = [read_part(text, named[i] if named else ()) for i, text in enumerate(loras)]
    parts = [part for part in read if part.weight]
    if not parts:
        raise CastmixError("nothing to fuse: give one or more LoRAs with a weight other than 0")
    check_fit(parts)
    note_single_characters(parts)
    note_nested(parts)
    return parts
