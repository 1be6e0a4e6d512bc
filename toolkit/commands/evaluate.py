"""`castmix evaluate`: scores of generated videos, and a page that shows both side by side."""

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
from toolkit.evaluation.bootstrap import Interval
from toolkit.evaluation.html_report import write_report
from toolkit.evaluation.metrics import Job, choose_metrics
from toolkit.evaluation.results_cache import ResultsCache
from toolkit.evaluation.settings import Features, Judge
from toolkit.evaluation.tables import Row, summarise, write_csv, write_json
from toolkit.evaluation.videos import Measure, Skipped, Video, find_references, find_videos
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
    """Score videos against the prompts that they were generated from.

    Writes scores.csv (a row per video), scores.json (means with 95 % bootstrap intervals, every video) and
    report.html (videos beside their scores). Videos that cannot be scored are listed with the reason.
    Measurements are kept in measured.jsonl, so an interrupted run continues where it stopped. A video is
    measured again only when the video, its prompt or the measuring model has changed.

    Metrics by family: "sandbox" (identity, motion, style, scene_style, interaction, binding, prompt), for
    videos of the sandbox only; "clip" (clip_t, clip_i, temporal_consistency); "dino" (dino_i); "flow"
    (motion_smoothness, dynamic_degree); "judge" (identity_p, motion_p, style_p, interaction_p), grades from
    1 to 10 by a vision-language model. The report explains each metric.

    Args:
        videos: Folder of .mp4 files, or one file. Beside each lies the JSON file from `castmix generate`.
        out: Folder for the results. Default: the folder of the videos.
        metrics: Families or single metrics. Default: all that fit the videos and can be measured here;
            "judge" only if judge.model is set.
        references: Folder of pictures named after characters (mimi-1.png), for clip_i, dino_i and the judge.
            They replace the cast's own pictures of these characters.
        cast: Folder with your own shows, added to the built-in cast.
        server: Address of the judge's server (OpenAI-compatible), such as http://localhost:8000/v1.
            Default: CASTMIX_VLM_URL or OPENAI_BASE_URL. It is never saved or shown.
        key: API key. Default: CASTMIX_VLM_KEY or OPENAI_API_KEY. It is never saved or shown.
        features: The models whose features are compared.
        judge: The vision-language model that judges.
        seed: Seed of the bootstrap.

    Returns:
        The path of report.html.

    Raises:
        CastmixError: No video could be scored, a metric cannot be measured here, or an argument is wrong.
    """
    arguments, source = dict(locals()), Path(videos)
    if features.batch_size < 1:
        raise CastmixError(f"features.batch_size must be 1 or more, got {features.batch_size}")
    folder = Path(out) if out else source if source.is_dir() else source.parent
    registry = read_cast(cast)
    found, skipped = _find(source)
    pictures = find_references(references, registry)
    job = Job(tuple(found), registry, pictures, features, judge, server, key, ResultsCache(folder))
    chosen = choose_metrics(metrics, job, FAMILIES)
    write_run(folder / RUN, "evaluate", arguments)
    rows, problems = _measure_all(job, chosen)
    columns = [column for names in chosen.values() for column in names]
    return _write(job, folder, rows, columns, skipped + problems, seed)


def _find(source: Path) -> tuple[list[Video], list[Skipped]]:
    """Videos with a prompt, and those without. Without any prompt it is an error."""
    found, skipped = find_videos(source)
    if not found:
        raise CastmixError(
            f"none of {len(skipped)} videos has a prompt; {skipped[0].file}: {skipped[0].reason}"
        )
    return found, skipped


def _measure_all(job: Job, chosen: Mapping[str, Sequence[str]]) -> tuple[list[Row], list[Skipped]]:
    """A row of scores per video, and what could not be measured."""
    meters = {family: FAMILIES[family].start(job, columns) for family, columns in chosen.items()}
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for video in track(job.videos, "evaluating"):
        row, problems = _measure(video, meters, chosen)
        rows.append(row)
        skipped += problems
    return rows, skipped


def _measure(
    video: Video, meters: Mapping[str, Measure], chosen: Mapping[str, Sequence[str]]
) -> tuple[Row, list[Skipped]]:
    """The chosen scores of one video, and what could not be measured."""
    read_frames = functools.cache(lambda: read_video(video.path))  # decoded at most once
    scores: dict[str, float | None] = {}
    problems: list[Skipped] = []
    notes = []
    for family, measure in meters.items():
        scores |= dict.fromkeys(chosen[family])
        try:
            made = measure(video, read_frames)
        except CastmixError as error:
            problems.append(Skipped(video.file, family, str(error)))
            continue
        scores |= {column: made.values[column] for column in chosen[family]}
        problems += [Skipped(video.file, column, why) for column, why in made.problems if column in scores]
        notes += [made.note] if made.note else []
    return Row(video, scores, tuple(notes)), problems


def _write(
    job: Job,
    folder: Path,
    rows: Sequence[Row],
    columns: Sequence[str],
    skipped: Sequence[Skipped],
    seed: int,
) -> Path:
    """Write scores.csv, scores.json and report.html, say the means, return the report's path."""
    summary = summarise(rows, columns, seed)
    if not summary:
        reason = (
            f"{skipped[0].file}: {skipped[0].reason}" if skipped else "no prompt asks for what they measure"
        )
        raise CastmixError(f"none of {len(rows)} videos could be scored: {reason}")
    settings = {
        "castmix": __version__,
        "metrics": columns,
        "seed": seed,
        "features": asdict(job.features),
        "judge": asdict(job.judge),
    }
    write_csv(folder, rows, columns)
    write_json(folder, rows, summary, skipped, settings)
    report = write_report(folder, rows, summary, skipped, settings, COLUMNS)
    _say_scores(summary, skipped, folder)
    return report


def _say_scores(summary: Mapping[str, Interval], skipped: Sequence[Skipped], folder: Path) -> None:
    for column, interval in summary.items():
        ends = f"{interval.low:.3f} to {interval.high:.3f}"
        say(f"{column:22} {interval.mean:.3f}  (95 %: {ends}, {interval.n} videos)")
    for (metric, reason), count in Counter((one.metric, one.reason) for one in skipped).most_common(5):
        say(f"skipped: {metric or 'video'}, {count} times: {reason}")
    if skipped:
        say(f"skipped in total: {len(skipped)}, listed in {folder / 'scores.json'}")
