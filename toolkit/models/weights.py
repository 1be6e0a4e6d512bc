"""Locates a base model's files, downloads missing ones, reads configurations and computes fingerprints.

It loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.models.interfaces import Geometry, ModelSpec

ENCODERS = ("tokenizer", "text_encoder", "vae")
DENOISER = ("transformer",)
WHOLE_FILE = 64 * 2**20  # bytes; fingerprints of larger files use samples of their content
SAMPLE = 2**16  # bytes per sample


def locate_weights(spec: ModelSpec, parts: tuple[str, ...]) -> Path:
    """Return the local folder with these parts of a model, after downloading them if necessary.

    Raises:
        CastmixError: Files are missing and cannot be downloaded. The message names them, with their size and
            how to download them. Or the model is not a Wan 2.1 pipeline.
    """
    folder = Path(spec.path)
    if folder.is_dir():
        missing = _missing(folder, parts)
        if missing:
            raise CastmixError(
                f"model {spec.name!r}: {folder} lacks {', '.join(missing)}: complete the folder, "
                "or give another --model"
            )
    else:
        folder = _from_hub(spec, parts)
    _check_kind(folder, spec)
    return folder


def _from_hub(spec: ModelSpec, parts: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(spec.path).is_absolute():
        raise CastmixError(
            f"model {spec.name!r}: the folder {spec.path} does not exist; to download: {spec.download}"
        )
    patterns = ["model_index.json", *(f"{part}/*" for part in (*parts, "scheduler"))]
    configs = ["model_index.json", "*/config.json", "scheduler/*"]
    why = "they are not on this machine"
    folder: Path | None = None
    for wanted, offline in ((patterns, True), ([*patterns, *configs], False)):
        if not offline:
            say(f"downloading {', '.join(parts)} of {spec.path} ({spec.download})")
        try:
            folder = Path(snapshot_download(spec.path, allow_patterns=wanted, local_files_only=offline))
        except LocalEntryNotFoundError:
            why = "they are not on this machine and the hub cannot be reached" if not offline else why
        except HFValidationError as error:
            raise CastmixError(f"{spec.path!r} is neither a local folder nor a hub id: {error}") from error
        except HfHubHTTPError as error:
            raise CastmixError(
                f"model {spec.name!r}: the hub refused {spec.path}: {_one_line(error)}"
            ) from error
        if folder is not None and not _missing(folder, parts):
            return folder
    missing = _missing(folder, parts) if folder is not None else [f"{part}/" for part in parts]
    raise CastmixError(
        f"model {spec.name!r} needs {', '.join(missing)} of {spec.path}, and {why}. Size: {spec.download}. "
        f"Download it with `hf download {spec.path}`, here or on another machine (then pass --model FOLDER)"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _missing(folder: Path, parts: tuple[str, ...]) -> list[str]:
    """Return the files of these parts that are missing in the folder, as relative paths."""
    wanted = ["model_index.json"]
    for part in parts:
        if part == "tokenizer":
            wanted += [] if any((folder / part).glob("*")) else ["tokenizer/"]
            continue
        wanted.append(f"{part}/config.json")
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        index = folder / part / f"{stem}.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            wanted += [f"{part}/{shard}" for shard in sorted(shards)]
        else:
            wanted.append(f"{part}/{stem}.safetensors")
    return [name for name in wanted if not (folder / name).exists()]


def _check_kind(folder: Path, spec: ModelSpec) -> None:
    index = read_config(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind != "WanPipeline":
        raise CastmixError(f"model {spec.name!r} is a {kind}: castmix needs a WanPipeline folder")
    if index.get("boundary_ratio") is not None or index.get("expand_timesteps"):
        raise CastmixError(f"model {spec.name!r} is a Wan 2.2: this version of castmix supports Wan 2.1 only")


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON configuration file."""
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CastmixError(f"cannot read {path}: {error}") from error
    return config


def latent_geometry(spec: ModelSpec) -> Geometry:
    """Return the geometry of a model's latents, from its configuration files."""
    folder = Path(spec.path)
    if not folder.is_dir():
        folder = _from_hub(spec, DENOISER)
    return geometry_of(*(read_config(folder / part / "config.json") for part in ("vae", "transformer")))


def geometry_of(vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> Geometry:
    """Return the geometry of latents, from the configurations of the VAE and the transformer."""
    time, space = int(vae.get("scale_factor_temporal") or 4), int(vae.get("scale_factor_spatial") or 8)
    patch = transformer.get("patch_size") or [1, 2, 2]
    multiples = (time * int(patch[0]), space * int(patch[1]), space * int(patch[2]))
    return int(transformer["in_channels"]), (time, space, space), multiples


def fingerprint_parts(spec: ModelSpec, part: str) -> str:
    """See `toolkit.models.registry.fingerprint`."""
    if part not in ("transformer", "encoders"):
        raise CastmixError(f"part must be 'transformer' or 'encoders', got {part!r}")
    parts = DENOISER if part == "transformer" else ENCODERS
    folder = locate_weights(spec, parts)
    digest = hashlib.sha256()
    if part == "encoders":
        digest.update(f"text_length={spec.text_length}".encode())
    for name in parts:
        for path in sorted((folder / name).glob("*")):
            if path.suffix in (".json", ".safetensors", ".model"):
                digest.update(f"{name}/{path.name}".encode())
                _digest_file(digest, path)
    return digest.hexdigest()[:16]


def _digest_file(digest: hashlib._Hash, path: Path) -> None:
    """Hash a file: completely if it is small, otherwise its size, first MiB and 65 samples up to its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE:
            digest.update(file.read())
            return
        digest.update(str(size).encode())
        digest.update(file.read(2**20))  # the header of a safetensors file: names, shapes, dtypes
        for i in range(1, 66):
            file.seek(max(0, (size - SAMPLE) * i // 65))
            digest.update(file.read(SAMPLE))


def local_folder(model: str) -> Path | None:
    """Return the local folder of a model: the given folder, or the hub's cache; None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
