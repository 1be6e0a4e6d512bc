"""composite: paste characters of one show into scenes of another style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

from toolkit.captions.cast import Style, read_cast
from toolkit.compositing.background_files import backgrounds_from_files
from toolkit.compositing.blending import Edge
from toolkit.compositing.eligible_clips import (
    Background,
    Choice,
    Foreground,
    clean_plate_backgrounds,
    select_clips,
)
from toolkit.compositing.output_folder import (
    PLAN,
    REJECTED,
    RUN,
    claim,
    read_rows,
    strike_out,
)
from toolkit.compositing.pairing import Kind, PairingSampler, Styles
from toolkit.compositing.placement import Place
from toolkit.compositing.plan import plan_rows
from toolkit.compositing.review_page import write_page
from toolkit.compositing.write_composites import write_composites
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_jsonl
from toolkit.core.progress import say, track
from toolkit.core.run_record import write_run
from toolkit.footage.clips import read_clips, write_index
from toolkit.sandbox.true_masks import true_ground

Row = Mapping[str, Any]


def composite(
    clips: list[Path],
    out: Path,
    *,
    count: int = 100,
    kind: Kind = "mix",
    styles: Styles = "opposite",
    backgrounds: list[Path] | None = None,
    style: Style | None = None,
    cast: Path | None = None,
    choice: Choice = Choice(),
    place: Place = Place(),
    edge: Edge = Edge(),
    seed: int = 0,
) -> Path:
    """Paste characters of one show into clips of another: training clips that show both together.

    Writes, below `out`: `clips/` with a JSON file each, `metadata.jsonl`, `plan.jsonl` (a row per composite,
    enough to make it again), `rejected.jsonl` (unused clips and failed rows, with the reason) and
    `index.html`, a page to review all composites. Composites struck out on that page are listed in
    `struck.txt`; they are removed and not made again. The same command continues an interrupted run. A larger
    count adds composites, a smaller one removes none.

    Args:
        clips: Folders of captioned clips. Characters are cut out of clips with masks (`castmix segment`).
        out: Folder for the composites alone.
        count: Number of composites to plan.
        kind: "mix" pastes into clips and keeps their characters; "pairs" pastes two characters on a clean
            background, with masks, for fusion; "references" pastes one, as single pictures.
        styles: Styles of the characters that meet: "opposite", "same" (from different shows) or "any".
        backgrounds: Pictures, videos or folders of them, without any cast member. They replace the clips as
            backgrounds.
        style: Style of `backgrounds`.
        cast: Folder with your own shows, added to the built-in cast.
        choice: Which clips qualify, and how often each is used.
        place: Position and size of a pasted character.
        edge: Edge of a pasted character.
        seed: Random seed of the plan.

    Returns:
        The path of index.html.

    Raises:
        CastmixError: An argument is wrong, no clip qualifies, or no composite could be made.
    """
    arguments, out = {**locals()}, Path(out)
    _check_words(kind, styles, backgrounds, style)
    _check_numbers(count, choice, place, edge)
    claim(out, _settings(arguments))
    rows, reasons = read_rows(out / PLAN), read_rows(out / REJECTED)
    planned = _planned(rows, count, out)
    if todo := sorted({*range(count)} - {row["index"] for row in rows}):
        foregrounds, backs, reasons = _find_sources(clips, out, cast, choice, kind, backgrounds, style)
        sampler = PairingSampler(kind, styles, foregrounds, backs)
        rows, reasons = _add_rows(out, rows, reasons, todo, sampler, choice, place, edge, seed)
    write_run(out / RUN, "composite", arguments | {"count": planned})
    return _write(rows, reasons, kind, out)


def _find_sources(
    clips: Sequence[Path],
    out: Path,
    cast: Path | None,
    choice: Choice,
    kind: Kind,
    backgrounds: list[Path] | None,
    style: Style | None,
) -> tuple[list[Foreground], list[Background], list[dict[str, str]]]:
    """Characters to cut out, backgrounds to paste on, and why other clips are neither."""
    foregrounds, backs, reasons = _look(clips, out, cast, choice)
    if backgrounds:
        backs, unusable = backgrounds_from_files(backgrounds, style or "cartoon", out, choice)
        reasons = [row for row in reasons if row["as"] != "background"] + unusable
    elif kind != "mix":
        backs = clean_plate_backgrounds(backs)
    _refuse_nothing(foregrounds, backs, reasons, kind, out)
    return foregrounds, backs, reasons


def _add_rows(
    out: Path,
    rows: list[dict[str, Any]],
    reasons: list[dict[str, Any]],
    todo: Sequence[int],
    sampler: PairingSampler,
    choice: Choice,
    place: Place,
    edge: Edge,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Plan the rows with the indices `todo` and save the plan. Returns all rows, and all reasons."""
    began = perf_counter()
    new, nowhere = plan_rows(todo, sampler, three=choice.three, place=place, edge=edge, seed=seed)
    rows, reasons = sorted(rows + new, key=lambda row: row["index"]), reasons + nowhere
    if not rows:
        write_jsonl(out / REJECTED, reasons)
        why = nowhere[0]["reason"]
        raise CastmixError(f"none of {len(todo)} composites could be planned: {why} (all: {out / REJECTED})")
    write_jsonl(out / PLAN, rows)
    say(f"composites: {len(new)} planned in {perf_counter() - began:.1f} s")
    return rows, reasons


def _write(rows: Sequence[Row], reasons: Sequence[Row], kind: Kind, out: Path) -> Path:
    """Make the planned composites, then write index and page. Returns the page."""
    kept = strike_out(out, rows)
    made: list[Row] = []
    failed: list[dict[str, str]] = []
    try:
        write_composites(kept, out, made, failed)
    finally:  # also after Ctrl-C
        reasons = [*(row for row in reasons if row["as"] != "making"), *failed]
        write_jsonl(out / REJECTED, reasons)
        if kind != "references":
            write_index(out)
        ids = {row["id"] for row in kept}
        page = write_page(out, made, [row for row in rows if row["id"] not in ids], reasons)
    struck = len(rows) - len(kept)
    say(f"composites: {len(made)} are there, {struck} struck out, {len(reasons)} rows set aside")
    if not made and kept:
        raise CastmixError(f"none of {len(kept)} composites could be made; the first: {failed[0]['reason']}")
    return page


def _settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the plan depends on, without its length. Paths are absolute."""
    settings = {name: value for name, value in arguments.items() if name not in ("out", "count")}
    for name in ("choice", "place", "edge"):
        settings[name] = asdict(settings[name])
    for name in ("clips", "backgrounds"):
        paths = [Path(path).resolve().as_posix() for path in settings[name] or ()]
        settings[name] = list(dict.fromkeys(paths))
    if settings["cast"]:
        settings["cast"] = Path(settings["cast"]).resolve().as_posix()
    return settings


def _planned(rows: Sequence[Row], count: int, out: Path) -> int:
    """Number of planned composites after this run: at least those planned before."""
    before = max((row["index"] + 1 for row in rows), default=0)
    if before > count:
        say(
            f"composites: {out} was planned for {before}, more than the {count} asked for, and all of them "
            "are kept: strike some out, or give another --out"
        )
    return max(before, count)


def _check_words(kind: str, styles: str, backgrounds: list[Path] | None, style: str | None) -> None:
    """Refuse unknown choices."""
    for name, value, known in (
        ("kind", kind, get_args(Kind)),
        ("styles", styles, get_args(Styles)),
        ("style", style, (None, *get_args(Style))),
    ):
        if value not in known:
            raise CastmixError(f"{name} must be {' or '.join(filter(None, known))}, got {value!r}")
    if bool(backgrounds) != bool(style):
        raise CastmixError(
            "--backgrounds and --style go together: say whether these pictures are cartoon or realistic"
        )


def _check_numbers(count: int, choice: Choice, place: Place, edge: Edge) -> None:
    """Refuse numbers out of range."""
    if count < 1:
        raise CastmixError(f"count must be 1 or more, got {count}")
    for name, (low, high), most in (
        ("choice.area", choice.area, 1.0),
        ("place.height", place.height, 1.0),
        ("place.foot", place.foot, 1.0),
    ):
        if not 0 < low <= high <= most:
            raise CastmixError(f"{name} must be two shares of the picture, small,large; got {low:g},{high:g}")
    for name, value, most in (
        ("choice.three", choice.three, 1.0),
        ("place.overlap", place.overlap, 1.0),
        ("place.outside", place.outside, 1.0),
        ("edge.shadow", edge.shadow, 1.0),
        ("edge.erode", edge.erode, 20.0),
        ("edge.feather", edge.feather, 40.0),
        ("edge.steady", edge.steady, 20.0),
    ):
        if not 0 <= value <= most:
            raise CastmixError(f"{name} must be 0 to {most:g}, got {value:g}")
    if not 0 <= choice.still <= choice.fastest:
        raise CastmixError(
            f"choice.still must not be above choice.fastest; got {choice.still:g} and {choice.fastest:g}"
        )


def _look(
    folders: Sequence[Path], out: Path, cast: Path | None, choice: Choice
) -> tuple[list[Foreground], list[Background], list[dict[str, str]]]:
    """Foregrounds and backgrounds among all clips of all folders, and why the others are neither."""
    found = []
    for folder in dict.fromkeys(map(Path, folders)):
        if folder.resolve() == out.resolve():
            raise CastmixError(f"{out} holds the clips themselves: give composites a folder of their own")
        found += [(folder, clip) for clip in read_clips(folder)]
    return select_clips(track(found, "looking at clips"), read_cast(cast), choice, true_ground)


def _refuse_nothing(
    fronts: Sequence[Foreground], backs: Sequence[Background], reasons: Sequence[Row], kind: Kind, out: Path
) -> None:
    """Refuse to go on without any foreground or any background."""
    if fronts and backs:
        return
    use = "background" if fronts else "foreground"
    write_jsonl(out / REJECTED, reasons)
    first = next((row["reason"] for row in reasons if row["as"] == use), "no clip at all")
    hint = ""
    if fronts and kind != "mix":
        hint = (
            "; clean backgrounds are made of clips with a still camera whose characters all have masks and "
            "move enough to be seen around: else give --backgrounds"
        )
    raise CastmixError(f"no clip can be a {use}: {first} (all reasons: {out / REJECTED}){hint}")
