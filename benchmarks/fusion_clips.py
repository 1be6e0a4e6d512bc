"""The clips from which fusions learn: one character's own, and pairs with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from benchmarks.footage import Data, copy_clips, make_clips
from benchmarks.forms import noun
from benchmarks.store import Store
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import Caption, format, parse
from toolkit.footage.clips import read_clips, write_clip, write_index

Captions = Literal["grammar", "noun"]

Company = bool | Literal["more alone"]

MATES = {"Mimi": "Pixo", "Bruno": "Pixo", "Otto": "Greta"}
"""Who keeps a character company in its clips: of its own show, and of no team."""


def written(caption: Caption, captions: Captions, named: Sequence[str]) -> str:
    """A caption in a form; in prose those who are not named are described."""
    return noun(caption, named) if captions == "noun" else format(caption)


def own_clips(name: str, captions: Captions, company: Company, store: Store) -> Path:
    """The clips that show one character, alone or beside its mate, with their cache.

    In prose the mate is described: nobody is named but the character whose LoRA learns from them.
    """
    more = company == "more alone"
    data = Data(characters=(name, MATES[name]), clips=16 if more else 8, pairs=8, composites=0)
    folders, _ = make_clips(data, store)

    def fill(path: Path) -> None:
        cast = read_cast()
        wanted = [{name}, {name, MATES[name]}] if company is True else [{name}]
        chosen = [
            clip
            for clip in read_clips(folders[0])
            if {clause.name for clause in parse(clip.text, cast).clauses} in wanted
        ]
        copy_clips(chosen, folders[0], path)
        _write_captions(path, captions, [name])

    settings = {"data": asdict(data), "name": name, "captions": captions, "company": company}
    return store.make("own", settings, fill)


def pair_clips(team: Sequence[str], captions: Captions, store: Store) -> Path:
    """Composites of a team with their masks, cached: what gradient learns maps from."""

    def fill(path: Path) -> None:
        from toolkit.commands.composite import composite
        from toolkit.commands.segment import segment
        from toolkit.compositing.placement import Place

        folders = [own_clips(name, "grammar", False, store) for name in team]
        for folder in folders:
            segment(folder, backend="truth")
        composite(folders, path, kind="pairs", styles="any", count=24, place=Place(overlap=0.3), seed=0)
        _write_captions(path, captions, team)

    return store.make("pairs", {"team": list(team), "captions": captions}, fill)


def _write_captions(folder: Path, captions: Captions, named: Sequence[str]) -> None:
    """Captions as the study wants them, and their cache."""
    from toolkit.commands.cache import cache

    cast = read_cast()
    for clip in read_clips(folder):
        write_clip(folder, replace(clip, text=written(parse(clip.text, cast), captions, named)))
    write_index(folder)
    cache(folder)
