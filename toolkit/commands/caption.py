"""caption: write a caption in the grammar of `toolkit.captions` into every clip.

To add a captioner, write a function `Job -> Describe` here and add it to CAPTIONERS at the end of the file.
The function is called once. The `Describe` that it returns is called for each clip: it returns a caption or
raises `NoCaptionError`. `check_caption` then checks every caption, whichever captioner wrote it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit import captions as grammar
from toolkit.captions.cast import Cast, Show, read_cast
from toolkit.captions.text_files import NoCaptionError, check_sources_unique, read_rows, sidecar_caption
from toolkit.captions.vlm import Chat, ServerError, connect_server, load_local_model
from toolkit.captions.vlm_captioner import caption_clip
from toolkit.core.choices import choose
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_jsonl
from toolkit.core.progress import say, track
from toolkit.core.run_record import write_run
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index

REJECTED = "rejected_captions.jsonl"
RUN = "caption.run.yaml"
SERVER_FAILURES = 5
"""Captioning stops after this many clips in a row failed because of the server."""

Describe = Callable[[Clip], str]


@dataclass(frozen=True)
class Job:
    """What captioners read. The fields are described in `caption`."""

    clips: tuple[Clip, ...]
    cast: Cast
    show: Show | None
    captions: Path | None
    server: str | None = field(repr=False)
    key: str | None = field(repr=False)
    model: str | None
    frames: int
    timeout: float
    retries: int


def caption(
    clips: Path,
    *,
    captioner: str = "sidecar",
    captions: Path | None = None,
    cast: Path | None = None,
    show: str | None = None,
    overwrite: bool = False,
    server: str | None = None,
    key: str | None = None,
    model: str | None = None,
    frames: int = 10,
    timeout: float = 120.0,
    retries: int = 4,
) -> list[Clip]:
    """Write a caption into every clip that has none.

    Each clip is saved as soon as it is captioned, so an interrupted run continues where it stopped. A clip
    that cannot be captioned is listed with the reason in ``rejected_captions.jsonl``.

    Args:
        clips: Folder of clips, made by prepare.
        captioner: "sidecar" reads texts beside the clips or the footage, "openai" asks a vision-language
            model on an OpenAI-compatible server, "transformers" runs one on this machine.
        captions: For "sidecar": a .jsonl, .csv or .yaml file. Its rows have file_name and text, or source,
            start, end (seconds) and text.
        cast: Folder with your own shows, added to the built-in cast.
        show: Show of all these clips, by id or name. Default: the show recorded in each clip. "openai" and
            "transformers" need one of the two.
        overwrite: Replace existing captions.
        server: Server address, such as http://localhost:8000/v1. Default: CASTMIX_VLM_URL or
            OPENAI_BASE_URL. It is never saved or shown.
        key: API key. Default: CASTMIX_VLM_KEY or OPENAI_API_KEY. It is never saved or shown.
        model: Vision-language model. For "openai": its name on the server; default: CASTMIX_VLM_MODEL, else
            the server's only model. For "transformers": a folder or a Hugging Face Hub id.
        frames: Number of frames of a clip that the model sees, evenly spaced.
        timeout: Seconds to wait for one answer.
        retries: How often a failed request is repeated.

    Returns:
        The clips that have a caption now.

    Raises:
        CastmixError: No clip has a caption at the end, or an argument is wrong.
    """
    arguments, folder, registry = {**locals()}, Path(clips), read_cast(cast)
    found = read_clips(folder)
    _check_numbers(frames, timeout, retries)
    todo = tuple(clip for clip in found if overwrite or not clip.text)
    kept = [clip for clip in found if clip.text and not overwrite]
    _warn_of_broken(kept, registry)
    make = choose(CAPTIONERS, captioner, "captioner")
    its_show = registry.show(show) if show else None
    job = Job(todo, registry, its_show, captions, server, key, model, frames, timeout, retries)
    if not todo:
        say(f"captions: all {len(kept)} clips have one, nothing to do (--overwrite makes them anew)")
        return kept
    write_run(folder / RUN, "caption", arguments)
    done, rejected = _caption_each(make(job), job, folder)
    return _report(job, done, kept, rejected, "unchanged" if overwrite else "missing", folder)


def _check_numbers(frames: int, timeout: float, retries: int) -> None:
    if frames < 1 or timeout <= 0 or retries < 0:
        given = f"frames {frames}, timeout {timeout:g}, retries {retries}"
        raise CastmixError(f"frames must be 1 or more, timeout above 0, retries 0 or more; got {given}")


def _warn_of_broken(kept: Sequence[Clip], registry: Cast) -> None:
    """Warn of captions that `check_caption` rejects. They stay: a person may have edited them."""
    broken: list[tuple[str, str]] = []
    for clip in kept:
        try:
            check_caption(clip.text, registry)
        except NoCaptionError as error:
            broken.append((clip.id, str(error)))
    for name, problem in broken[:5]:
        say(f"warning: the caption of {name} breaks the grammar: {problem}")
    if len(broken) > 5:
        say(f"warning: … and those of {len(broken) - 5} more clips")


def _report(
    job: Job,
    done: list[Clip],
    kept: list[Clip],
    rejected: Sequence[Mapping[str, str]],
    left: str,
    folder: Path,
) -> list[Clip]:
    """Say how many clips have a caption now; return these clips, sorted by id.

    left: What the other clips' captions are, "unchanged" or "missing".
    """
    total = len(job.clips)
    say(f"captions: {len(done)} made, {len(kept)} kept, {total - len(done)} {left}")
    if rejected:
        say(f"captions: {len(rejected)} clips set aside, the reasons are in {folder / REJECTED}")
    if not done and not kept:
        raise CastmixError(f"none of {total} clips got a caption; the first: {rejected[0]['reason']}")
    return sorted(kept + done, key=lambda clip: clip.id)


def _caption_each(describe: Describe, job: Job, folder: Path) -> tuple[list[Clip], list[dict[str, str]]]:
    """Caption and save clip by clip. Returns captioned clips and the rows of rejected ones."""
    done: list[Clip] = []
    rejected: list[dict[str, str]] = []
    failures = 0
    try:
        for clip in track(job.clips, "captioning"):
            try:
                text = describe(clip)
                check_caption(text, job.cast)
            except CastmixError as error:
                value = error.value if isinstance(error, NoCaptionError) else ""
                row = {"file_name": f"clips/{clip.path.name}", "reason": str(error), "value": value}
                rejected.append(row)
                failures = failures + 1 if isinstance(error, ServerError) else 0
                if failures == SERVER_FAILURES:
                    say(f"captions: the server failed {failures} times in a row, the rest is not asked for")
                    break
            else:
                failures = 0
                extra = clip.extra | _its_show(clip, text, job)
                done.append(dataclasses.replace(clip, text=text, extra=extra))
                write_clip(folder, done[-1])
    finally:  # also when a person interrupts
        write_jsonl(folder / REJECTED, rejected)
        write_index(folder)
    return done, rejected


def check_caption(text: str, cast: Cast) -> None:
    """Reject a caption that breaks the grammar. Further caption filters go here.

    Raises:
        NoCaptionError: The caption is rejected; the message becomes the reason in rejected_captions.jsonl.
    """
    if problems := grammar.validate(text, cast):
        raise NoCaptionError("; ".join(problems), text)


def _its_show(clip: Clip, text: str, job: Job) -> dict[str, str]:
    """The show to record in a clip: --show, else the only show of the caption's characters."""
    if job.show:
        return {"show": job.show.id}
    shows = {job.cast.find(clause.name)[0].id for clause in grammar.parse(text, job.cast).clauses}
    return {"show": shows.pop()} if "show" not in clip.extra and len(shows) == 1 else {}


def sidecar(job: Job) -> Describe:
    """Read existing text: a row of `captions`, ``<clip>.txt``, or ``<source>.captions.jsonl`` by time."""
    rows = read_rows(job.captions) if job.captions else []
    check_sources_unique(rows, {clip.source for clip in job.clips}, job.captions or Path())
    read = functools.cache(read_rows)  # all clips of a source share one file
    return lambda clip: sidecar_caption(clip, rows, read)


def openai(job: Job) -> Describe:
    """A vision-language model behind an OpenAI-compatible server: vLLM, Ollama, a hosted one."""
    return _watcher(
        job, connect_server(job.server, job.key, job.model, timeout=job.timeout, retries=job.retries)
    )


def transformers(job: Job) -> Describe:
    """A vision-language model on this machine, through transformers."""
    return _watcher(job, load_local_model(job.model))


def _watcher(job: Job, chat: Chat) -> Describe:
    def describe(clip: Clip) -> str:
        show = job.show or _known_show(clip, job.cast)
        return caption_clip(clip, show, job.cast, chat, job.frames)

    return describe


def _known_show(clip: Clip, cast: Cast) -> Show:
    if "show" not in clip.extra:
        shows = ", ".join(show.id for show in cast.shows)
        raise NoCaptionError(f"which show is it from? Give --show with one of {shows}")
    return cast.show(str(clip.extra["show"]))


# Add a captioner here: its name → a function like those above.
CAPTIONERS: Mapping[str, Callable[[Job], Describe]] = {
    "sidecar": sidecar,
    "openai": openai,
    "transformers": transformers,
}
