"""`castmix fuse`: several LoRAs that were trained apart into one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.fusion.settings import Distil, MethodName, Sparse, Squares
from toolkit.models.registry import find_model
from toolkit.training.settings import Optim, Sigma


def fuse(
    loras: list[str],
    out: Path,
    *,
    method: MethodName = "weighted",
    model: str = "sandbox",
    rank: int | None = None,
    clips: Sequence[Path] = (),
    pairs: Path | None = None,
    subjects: Sequence[str] = (),
    seed: int = 0,
    restart: bool = False,
    save_dtype: Literal["float32", "bfloat16"] = "float32",
    sparse: Sparse = Sparse(),
    squares: Squares = Squares(),
    distil: Distil = Distil(),
    optim: Optim = Optim(weight_decay=0.0),
    sigma: Sigma = Sigma(),
) -> Path:
    """Fuse LoRAs that were trained apart into one.

    weighted, svd, ties, dare and masked look at the weights alone and take seconds. least-squares and
    gradient also look at what each LoRA does on cached clips of its own characters. The file of a masked
    fusion is the plain weighted sum everywhere but in castmix, which lets each LoRA act only where its
    characters are.

    Args:
        loras: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8); 1 if left out.
        out: A .safetensors file, or a folder for lora.safetensors; run.yaml goes beside it.
        method: How they are fused.
        model: The base of least-squares and gradient: sandbox, wan2.1-t2v-1.3b, a local folder or a hub id.
        rank: Of every layer: truncated to it. Left out, weighted, masked, least-squares and gradient have the
            sum of the ranks and svd the largest of them.
        clips: Folders of cached clips for least-squares and gradient; a clip belongs to the LoRA whose
            subjects its caption names, and to nobody if they are of several.
        pairs: Folder of cached clips with several subjects and their masks, for gradient's maps (see
            `castmix composite --kind pairs`).
        subjects: Names or tokens of those whom a LoRA knows, a comma between; once for each LoRA, in order.
            Left out, they are read from the files.
        seed: Of every random draw.
        restart: Begin afresh instead of going on (gradient).
        save_dtype: Numbers in the file; bfloat16 halves it.
        sparse: ties and dare.
        squares: least-squares.
        distil: gradient.
        optim: How gradient moves the weights.
        sigma: Noise levels of least-squares and gradient.

    Returns:
        The path of the fused LoRA.

    Raises:
        CastmixError: a LoRA that cannot be read, LoRAs of different models, missing clips, wrong settings.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    arguments = dict(locals())
    out = Path(out)
    if out.suffix and out.suffix != ".safetensors" and not out.is_dir():
        raise CastmixError(f"--out {out}: a LoRA is written as .safetensors, or into a folder")
    single = out.suffix == ".safetensors" and not out.is_dir()
    file, work = (out, out.with_suffix("")) if single else (out / "lora.safetensors", out)
    if subjects and len(subjects) != len(loras):
        raise CastmixError(
            f"{len(loras)} LoRAs and {len(subjects)} --subjects: give it once for each, in order, names with "
            "commas between"
        )

    import torch

    from toolkit.fusion.job import Job, check_fit, fused, note_nested, note_solos, read_part
    from toolkit.fusion.methods import METHODS
    from toolkit.lora.file import save_lora

    if method not in METHODS:
        raise CastmixError(f"no method {method!r}; choose among {', '.join(METHODS)}")
    named = [[name.strip() for name in text.split(",") if name.strip()] for text in subjects]
    read = [read_part(text, named[i] if named else ()) for i, text in enumerate(loras)]
    parts = [part for part in read if part.weight]
    if not parts:
        raise CastmixError("nothing to fuse: give one or several LoRAs with a weight other than 0")
    check_fit(parts)
    note_solos(parts)
    note_nested(parts)
    job = Job(
        spec=find_model(model),
        work=work,
        clips=tuple(map(Path, clips)),
        pairs=None if pairs is None else Path(pairs),
        rank=rank,
        seed=seed,
        restart=restart,
        sparse=sparse,
        squares=squares,
        distil=distil,
        optim=optim,
        sigma=sigma,
    )
    tensors, facts = METHODS[method](parts, job)
    made = fused(parts, tensors, method, facts)
    save_lora(made, file, dtype=getattr(torch, save_dtype))
    told = {name: fact for name, fact in facts.items() if name != "ranks"}
    run = work / "run.yaml" if file != out else out.with_suffix(".run.yaml")
    prints = {"loras": [part.fingerprint for part in parts], "fused": fingerprint_file(file)}
    write_run(run, "fuse", {**arguments, "restart": False}, fingerprints=prints, **told)
    say(f"fused {len(parts)} LoRAs ({method}), rank {made.rank}" + (f", {json.dumps(told)}" if told else ""))
    return file
