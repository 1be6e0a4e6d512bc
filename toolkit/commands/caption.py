"""caption: write a caption in the grammar of `toolkit.captions` into every clip.

To add a captioner, write a function `Job -> Describe` here and name it in CAPTIONERS, at the end of the file.
It is called once; what it returns is called for each clip and returns its caption, or raises
`NoCaptionError`. The grammar is checked here, for all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit import captions as grammar
from toolkit.captions.cast import Cast, Show, nearest, read_cast
from toolkit.captions.text_files import NoCaptionError, check_sources_unique, read_rows, sidecar_caption
from toolkit.captions.vlm import Chat, ServerError, connect_server, load_local_model
from toolkit.captions.vlm_captioner import caption_clip
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say, track
from toolkit.core.run_record import write_run
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index

REJECTED = "rejected_captions.jsonl"
RUN = "caption.run.yaml"
SERVER_FAILURES = 5
"""After so many clips in a row that failed because of the server, the rest is not asked."""

Describe = Callable[[Clip], str]


@dataclass(frozen=True)
class Job:
    """What a captioner may need; each takes what it uses. See `caption` for the meanings."""

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
    """Write a caption into every clip that has none yet.

    Each clip is saved as soon as it is done: an interrupted run goes on where it stopped. A clip that cannot
    be captioned is listed with the reason in ``rejected_captions.jsonl`` and does not end the run.

    Args:
        clips: The folder that prepare made.
        captioner: "sidecar" takes texts that lie beside clips or footage, "openai" asks a vision-language
            model behind an OpenAI-compatible server, "transformers" one on this machine.
        captions: For "sidecar", a .jsonl, .csv or .yaml file with rows of file_name and text, or of source,
            start, end (seconds) and text.
        cast: A folder of your own shows, on top of the built-in cast.
        show: The show that all these clips come from, by id or name. A captioner that watches needs it; else
            the one named in the clip is taken.
        overwrite: Make captions anew that exist already.
        server: Address of the server, as http://localhost:8000/v1; else from CASTMIX_VLM_URL or
            OPENAI_BASE_URL. It is not saved or shown anywhere.
        key: The server's key; better from CASTMIX_VLM_KEY or OPENAI_API_KEY. It is not saved or shown
            anywhere.
        model: The vision-language model. For "openai" its name on the server; else from CASTMIX_VLM_MODEL,
            else the server's only one. For "transformers" its folder or its name on the Hugging Face Hub.
        frames: How many frames of a clip the model sees, evenly spaced.
        timeout: Seconds to wait for one answer.
        retries: How often to ask again after a failure of the server.

    Returns:
        The clips that have a caption now.

    Raises:
        CastmixError: Not one clip could be captioned, or an argument is wrong.
    """
    arguments = {**locals()}
    folder = Path(clips)
    registry = read_cast(cast)
    found = read_clips(folder)
    if frames < 1 or timeout <= 0 or retries < 0:
        given = f"frames {frames}, timeout {timeout:g}, retries {retries}"
        raise CastmixError(f"frames must be 1 or more, timeout above 0, retries 0 or more; got {given}")
    todo = [clip for clip in found if overwrite or not clip.text]
    kept = [clip for clip in found if clip.text and not overwrite]
    _warn_of_broken(kept, registry)
    make = _find_captioner(captioner)
    job = Job(
        clips=tuple(todo),
        cast=registry,
        show=registry.show(show) if show else None,
        captions=captions,
        server=server,
        key=key,
        model=model,
        frames=frames,
        timeout=timeout,
        retries=retries,
    )
    if not todo:
        say(f"captions: all {len(kept)} clips have one, nothing to do (--overwrite makes them anew)")
        return kept
    write_run(folder / RUN, "caption", arguments)
    done, rejected = _caption_each(make(job), job, folder)
    left = "unchanged" if overwrite else "missing"
    say(f"captions: {len(done)} made, {len(kept)} kept, {len(todo) - len(done)} {left}")
    if rejected:
        say(f"captions: {len(rejected)} clips set aside, the reasons are in {folder / REJECTED}")
    if not done and not kept:
        raise CastmixError(f"none of {len(todo)} clips got a caption; the first: {rejected[0]['reason']}")
    return sorted(kept + done, key=lambda clip: clip.id)


def _warn_of_broken(kept: Sequence[Clip], registry: Cast) -> None:
    """Captions that are there are kept, edits by hand among them; say which ones break the grammar."""
    broken = [(clip.id, problems[0]) for clip in kept if (problems := grammar.validate(clip.text, registry))]
    for name, problem in broken[:5]:
        say(f"warning: the caption of {name} breaks the grammar: {problem}")
    if len(broken) > 5:
        say(f"warning: … and those of {len(broken) - 5} more clips")


def _find_captioner(name: str) -> Callable[[Job], Describe]:
    if name in CAPTIONERS:
        return CAPTIONERS[name]
    known = nearest(name, CAPTIONERS) or CAPTIONERS
    raise CastmixError(f"no captioner {name!r}: choose {' or '.join(known)}")


def _caption_each(describe: Describe, job: Job, folder: Path) -> tuple[list[Clip], list[dict[str, str]]]:
    """Caption and save clip by clip: the clips that worked, and rows of those set aside."""
    done: list[Clip] = []
    rejected: list[dict[str, str]] = []
    failures = 0
    try:
        for clip in track(job.clips, "captioning"):
            try:
                text = describe(clip)
                if problems := grammar.validate(text, job.cast):
                    raise NoCaptionError("; ".join(problems), text)
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
        rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
        write_atomic(folder / REJECTED, rows)
        write_index(folder)
    return done, rejected


def _its_show(clip: Clip, text: str, job: Job) -> dict[str, str]:
    """The clip's show as it is remembered in the clip: given, known before, or the one of its characters."""
    if job.show:
        return {"show": job.show.id}
    shows = {job.cast.find(clause.name)[0].id for clause in grammar.parse(text, job.cast).clauses}
    return {"show": shows.pop()} if "show" not in clip.extra and len(shows) == 1 else {}


def sidecar(job: Job) -> Describe:
    """Texts that exist: a row of `captions`, ``<clip>.txt``, or ``<source>.captions.jsonl`` by time."""
    rows = read_rows(job.captions) if job.captions else []
    check_sources_unique(rows, {clip.source for clip in job.clips}, job.captions or Path())
    read = functools.cache(read_rows)  # one file serves all clips of a source
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
