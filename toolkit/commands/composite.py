"""composite: cut characters out of their show and paste them into scenes of another style."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    is_made,
    read_rows,
    strike_out,
    write_rows,
)
from toolkit.compositing.pairing import Kind, PairingSampler, Styles
from toolkit.compositing.placement import Place
from toolkit.compositing.plan import plan_rows
from toolkit.compositing.render import cached_fingerprint, check_parents
from toolkit.compositing.review_page import write_page
from toolkit.compositing.write_composites import write_composite
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
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
    """Paste characters of one show into clips of another, as training clips that have both in one picture.

    Writes, below `out`: `clips/` with a json each, `metadata.jsonl`, `plan.jsonl` (rows that make the same
    composites again), `rejected.jsonl` (which clips were not used, which rows could not be made, and why) and
    `index.html`, a page of all of them. Ids in `struck.txt`, which the page saves, are taken out and not made
    again. The same command goes on where it stopped; a larger count adds to what is there, and a smaller one
    takes nothing away.

    Args:
        clips: Folders of captioned clips; those to be cut out have masks (`castmix segment`).
        out: A folder of its own for the composites.
        count: How many are planned.
        kind: "mix" pastes into clips and keeps their characters, "pairs" two on a clean background, with
            their masks, for fusion, "references" one on clean backgrounds, as single pictures.
        styles: Whether those who meet are of opposite styles, of the same style and of different shows, or
            any two: pairs for a fusion of characters of one show take any.
        backgrounds: Pictures, videos or folders of them that show nobody of the cast, instead of clips.
        style: The style of the backgrounds.
        cast: A folder of your own shows, on top of the built-in cast.
        choice: Which clips are good enough, and how they are drawn.
        place: Where and how large somebody is pasted.
        edge: The rim of who is pasted.
        seed: Another seed plans others.

    Returns:
        The page of all composites.

    Raises:
        CastmixError: An argument is wrong, no clip can be used, or not one composite could be made.
    """
    arguments = {**locals()}
    _check_words(kind, styles, backgrounds, style)
    _check_numbers(count, choice, place, edge)
    out = Path(out)
    claim(out, _settings(arguments))
    rows, reasons = read_rows(out / PLAN), read_rows(out / REJECTED)
    planned = _planned(rows, count, out)
    if todo := sorted({*range(count)} - {row["index"] for row in rows}):
        fronts, backs, reasons = _look(clips, out, cast, choice)
        if backgrounds:
            backs, unusable = backgrounds_from_files(backgrounds, style or "cartoon", out, choice)
            reasons = [row for row in reasons if row["as"] != "background"] + unusable
        elif kind != "mix":
            backs = clean_plate_backgrounds(backs)
        _refuse_nothing(fronts, backs, reasons, kind, out)
        began = perf_counter()
        sampler = PairingSampler(kind, styles, fronts, backs)
        new, nowhere = plan_rows(todo, sampler, three=choice.three, place=place, edge=edge, seed=seed)
        rows, reasons = sorted(rows + new, key=lambda row: row["index"]), reasons + nowhere
        if not rows:
            write_rows(out / REJECTED, reasons)
            why = nowhere[0]["reason"]
            raise CastmixError(f"none of {count} composites could be planned: {why} (all: {out / REJECTED})")
        write_rows(out / PLAN, rows)
        say(f"composites: {len(new)} planned in {perf_counter() - began:.1f} s")
    write_run(out / RUN, "composite", arguments | {"count": planned})
    kept = strike_out(out, rows)
    made: list[Row] = []
    failed: list[dict[str, str]] = []
    try:
        _make_all(kept, out, made, failed)
    finally:  # after Ctrl-C, too, page and index tell what is there
        reasons = [row for row in reasons if row["as"] != "making"] + failed
        write_rows(out / REJECTED, reasons)
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
    """What decides about the plan, but for its length; whole paths, from wherever the command is given."""
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
    """How many are planned in all, at the end of this run: a smaller count takes none away."""
    before = max((row["index"] + 1 for row in rows), default=0)
    if before > count:
        say(
            f"composites: {out} was planned for {before}, more than the {count} asked for, and all of them "
            "are kept: strike some out, or give another --out"
        )
    return max(before, count)


def _check_words(kind: str, styles: str, backgrounds: list[Path] | None, style: str | None) -> None:
    """Refuse words that are not among the choices."""
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
    """Refuse settings that cannot be meant."""
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
    """All clips of all folders, sorted into what they can be used for."""
    found = []
    for folder in dict.fromkeys(map(Path, folders)):
        if folder.resolve() == out.resolve():
            raise CastmixError(f"{out} holds the clips themselves: give composites a folder of their own")
        found += [(folder, clip) for clip in read_clips(folder)]
    return select_clips(track(found, "looking at clips"), read_cast(cast), choice, true_ground)


def _refuse_nothing(
    fronts: Sequence[Foreground], backs: Sequence[Background], reasons: Sequence[Row], kind: Kind, out: Path
) -> None:
    """Stop where nobody can be cut out, or there is nothing to paste on."""
    if fronts and backs:
        return
    use = "background" if fronts else "foreground"
    write_rows(out / REJECTED, reasons)
    first = next((row["reason"] for row in reasons if row["as"] == use), "no clip at all")
    hint = ""
    if fronts and kind != "mix":
        hint = (
            "; clean backgrounds are made of clips with a still camera whose characters all have masks and "
            "move enough to be seen around: else give --backgrounds"
        )
    raise CastmixError(f"no clip can be a {use}: {first} (all reasons: {out / REJECTED}){hint}")


def _make_all(rows: Sequence[Row], out: Path, made: list[Row], failed: list[dict[str, str]]) -> None:
    """Make those that are not there; fills `made` and `failed` as it goes."""
    fingerprint = cached_fingerprint(fingerprint_file)
    made += [row for row in rows if is_made(out, row)]
    there = {row["id"] for row in made}
    left = [row for row in rows if row["id"] not in there]

    def work(row: Row) -> tuple[Row, str | None]:
        try:
            check_parents(row, fingerprint)
            write_composite(row, out)
        except CastmixError as error:
            return row, str(error)
        return row, None

    # decoding, encoding and OpenCV leave the interpreter alone: threads share the work
    pool = ThreadPoolExecutor(_workers())
    try:
        for row, error in track(pool.map(work, left), "composites", total=len(rows), start=len(made)):
            if error is None:
                made.append(row)
            else:
                failed.append({"id": row["id"], "as": "making", "reason": error})
    finally:
        pool.shutdown(cancel_futures=True)


def _workers() -> int:
    """How many are made at a time: the first number of OMP_NUM_THREADS, which may be a list of levels."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return min(os.cpu_count() or 1, 8)
    first = text.partition(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise CastmixError(
            f"OMP_NUM_THREADS is {text!r}: expected a number of threads, such as 2: set it so, or unset it"
        )
    return int(first)
