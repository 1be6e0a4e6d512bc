"""`castmix evaluate`: videos with their prompts to scores, and a page that shows both side by side."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say, track
from toolkit.core.run_record import write_run
from toolkit.core.version import __version__
from toolkit.evaluation import metrics as families
from toolkit.evaluation.html_report import write_report
from toolkit.evaluation.metrics import Job, choose
from toolkit.evaluation.results_cache import Ledger
from toolkit.evaluation.settings import Features, Judge
from toolkit.evaluation.tables import Row, summarise, write_csv, write_json
from toolkit.evaluation.videos import Measure, SetAside, Video, find_references, find_videos
from toolkit.footage.video import read_video
from toolkit.sandbox import metric_family

RUN = "evaluate.run.yaml"
FAMILIES = {"sandbox": metric_family.FAMILY, **families.FAMILIES}
"""All metrics, by family."""
COLUMNS = {name: column for family in FAMILIES.values() for name, column in family.columns.items()}


def evaluate(
    videos: Path,
    out: Path | None = None,
    *,
    metrics: Sequence[str] | None = None,
    references: Path | None = None,
    cast: Path | None = None,
    server: str | None = None,
    key: str | None = None,
    features: Features = Features(),
    judge: Judge = Judge(),
    seed: int = 0,
) -> Path:
    """Score videos against the prompts that they were made from.

    Writes scores.csv (a line a video), scores.json (means with 95 % bootstrap intervals, and every video) and
    report.html (the videos beside their scores). Whatever cannot be scored is listed with the reason and does
    not end the run. Each measurement is kept in measured.jsonl: an interrupted run goes on where it stopped,
    and a video is measured again only when it, its prompt or what measures it has changed.

    Metrics by family: "sandbox" (identity, motion, style, scene_style, interaction, binding, prompt) for
    videos of the sandbox; "clip" (clip_t, clip_i, temporal_consistency), "dino" (dino_i) and "flow"
    (motion_smoothness, dynamic_degree) for any; "judge" (identity_p, motion_p, style_p, interaction_p), a
    vision-language model's grades from 1 to 10. The report says what each number is.

    Args:
        videos: A folder of .mp4 files (or one file), each with the JSON file beside it that says its
            prompt, as `castmix generate` writes it.
        out: Folder of the results; left out, that of the videos.
        metrics: Families or single metrics; left out, all that fit the videos and can be measured here. The
            judge only works when it is asked for, or its model is named.
        references: A folder of pictures named after characters (mimi-1.png), for clip_i, dino_i and the
            judge; those of the cast are known.
        cast: A folder of your own shows, on top of the built-in cast.
        server: Address of the judge's server (OpenAI-compatible), as http://localhost:8000/v1; else from
            CASTMIX_VLM_URL or OPENAI_BASE_URL. It is not saved or shown anywhere.
        key: The server's key; better from CASTMIX_VLM_KEY or OPENAI_API_KEY. It is not saved or shown
            anywhere.
        features: The models whose features are compared.
        judge: The vision-language model that judges.
        seed: Of the bootstrap.

    Returns:
        The report.

    Raises:
        CastmixError: Nothing could be scored, a metric that cannot be measured here, or a wrong argument.
    """
    arguments = dict(locals())
    if features.batch_size < 1:
        raise CastmixError(f"features.batch_size must be 1 or more, got {features.batch_size}")
    source = Path(videos)
    folder = Path(out) if out else source if source.is_dir() else source.parent
    registry = read_cast(cast)
    found, set_aside = find_videos(source)
    if not found:
        raise CastmixError(
            f"none of {len(set_aside)} videos has a prompt; {set_aside[0].file}: {set_aside[0].reason}"
        )
    job = Job(
        videos=tuple(found),
        cast=registry,
        references=find_references(references, registry),
        features=features,
        judge=judge,
        server=server,
        key=key,
        ledger=Ledger(folder),
    )
    chosen = choose(metrics, job, FAMILIES)
    write_run(folder / RUN, "evaluate", arguments)
    meters = {family: FAMILIES[family].start(job, columns) for family, columns in chosen.items()}
    rows = []
    for video in track(found, "evaluating"):
        row, problems = _measure(video, meters, chosen)
        rows.append(row)
        set_aside += problems
    columns = [column for names in chosen.values() for column in names]
    settings = {
        "castmix": __version__,
        "metrics": columns,
        "seed": seed,
        "features": asdict(features),
        "judge": asdict(judge),
    }
    return _write(folder, rows, columns, set_aside, settings, seed)


def _measure(
    video: Video, meters: Mapping[str, Measure], chosen: Mapping[str, Sequence[str]]
) -> tuple[Row, list[SetAside]]:
    """All families' numbers of one video, of the chosen columns, and what could not be measured."""
    footage = functools.cache(lambda: read_video(video.path))  # decoded once, and only if anybody looks
    scores: dict[str, float | None] = {}
    problems: list[SetAside] = []
    notes = []
    for family, measure in meters.items():
        scores |= dict.fromkeys(chosen[family])
        try:
            made = measure(video, footage)
        except CastmixError as error:
            problems.append(SetAside(video.file, family, str(error)))
            continue
        scores |= {column: made.values[column] for column in chosen[family]}
        problems += [SetAside(video.file, column, why) for column, why in made.problems if column in scores]
        notes += [made.note] if made.note else []
    return Row(video, scores, tuple(notes)), problems


def _write(
    folder: Path,
    rows: Sequence[Row],
    columns: Sequence[str],
    set_aside: Sequence[SetAside],
    settings: Mapping[str, object],
    seed: int,
) -> Path:
    """Write the three results, say the means; the report's path."""
    summary = summarise(rows, columns, seed)
    if not summary:
        reason = (
            f"{set_aside[0].file}: {set_aside[0].reason}"
            if set_aside
            else "no prompt asks for what they measure"
        )
        raise CastmixError(f"none of {len(rows)} videos could be scored: {reason}")
    write_csv(folder, rows, columns)
    write_json(folder, rows, summary, set_aside, settings)
    report = write_report(folder, rows, summary, set_aside, settings, COLUMNS)
    for column, interval in summary.items():
        ends = f"{interval.low:.3f} to {interval.high:.3f}"
        say(f"{column:22} {interval.mean:.3f}  (95 %: {ends}, {interval.n} videos)")
    for (metric, reason), count in Counter((one.metric, one.reason) for one in set_aside).most_common(5):
        say(f"set aside: {metric or 'video'}, {count} times: {reason}")
    if set_aside:
        say(f"set aside in all: {len(set_aside)}, listed in {folder / 'scores.json'}")
    return report
