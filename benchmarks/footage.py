"""The clips that cells train on: drawn, cut, captioned and cached as a user's would be, and shared."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.forms import FORMS
from benchmarks.store import Store
from toolkit.captions.cast import Cast, read_cast
from toolkit.captions.grammar import parse
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index


@dataclass(frozen=True)
class Data:
    """What a LoRA learns from.

    Attributes:
        characters: Whom it learns. Two of each style; Mimi and Greta look alike.
        clips: Of each of them alone.
        pairs: Of each show, with two or three of them.
        composites: One of them pasted beside another of the other style. Some may turn out impossible.
        masks: By which characters are cut out: the truth's, or those of the sandbox's SAM 2.
        edge: The rim of who is pasted, soft, or hard: nothing taken back, no feather.
        captions: How captions are written, and prompts: see forms.py.
        strangers: Clips of the base model's own world, to keep what it knows.
        episodes: Drawn of each show with these characters alone; the clips are chosen from them.
        shots: Of an episode.
        seed: Of all drawing. Cells of all seeds train on the same clips.
    """

    characters: tuple[str, ...] = ("Mimi", "Bruno", "Greta", "Otto")
    clips: int = 8
    pairs: int = 12
    composites: int = 24
    masks: Literal["truth", "sam2"] = "truth"
    edge: Literal["soft", "hard"] = "soft"
    captions: str = "both"
    strangers: int = 64
    episodes: int = 4
    shots: int = 12
    seed: int = 0


def make_clips(data: Data, store: Store) -> tuple[list[Path], list[Path]]:
    """Folders of clips to train on, each with its cache; and the store's folders that they needed."""
    shows = sorted({read_cast().find(name)[0].id for name in data.characters})
    names = ("characters", "episodes", "shots", "seed")
    drawn = {"shows": shows, **{name: getattr(data, name) for name in names}}
    footage = store.make("footage", drawn, lambda path: _draw(path, data, shows))
    settings = {name: value for name, value in asdict(data).items() if name != "strangers"}
    made = store.make("clips", settings, lambda path: _choose_and_write(path, footage / "clips", data))
    folders = [made / name for name in ("shows", "composites") if (made / name).is_dir()]
    return folders, [footage, made]


def make_strangers(data: Data, store: Store) -> Path:
    """A folder of clips of the base model's own world, with its cache."""

    def fill(path: Path) -> None:
        from toolkit.commands.cache import cache
        from toolkit.commands.demo import base_clips

        base_clips(path, data.strangers, data.seed)
        cache(path)

    return store.make("strangers", {"count": data.strangers, "seed": data.seed}, fill)


def choose(clips: Sequence[Clip], data: Data, cast: Cast) -> list[Clip]:
    """The clips of the study's characters and of nobody else.

    From as many shots as there are: every shot's first clip comes before any shot's second. A smaller
    number takes a part of what a larger one takes.

    Raises:
        CastmixError: There are too few of them.
    """
    parts: Counter[tuple[str, int]] = Counter()
    ranked: list[tuple[int, Clip]] = []
    for clip in sorted(clips, key=lambda clip: clip.id):
        ranked.append((parts[clip.source, clip.shot], clip))
        parts[clip.source, clip.shot] += 1
    ordered = [clip for _, clip in sorted(ranked, key=lambda pair: pair[0])]
    seen = {clip.id: {clause.name for clause in parse(clip.text, cast).clauses} for clip in ordered}

    def first(count: int, who: str, found: list[Clip]) -> list[Clip]:
        if len(found) < count:
            drawn = f"{data.episodes} episodes of {data.shots} shots a show"
            raise CastmixError(f"{len(found)} clips show {who}, {count} are wanted: draw more than {drawn}")
        return found[:count]

    chosen: list[Clip] = []
    for name in data.characters:
        chosen += first(data.clips, f"{name} alone", [clip for clip in ordered if seen[clip.id] == {name}])
    for show in cast.shows:
        own = {character.name for character in show.characters} & {*data.characters}
        together = [clip for clip in ordered if len(seen[clip.id]) > 1 and seen[clip.id] <= own]
        if len(own) > 1:
            chosen += first(data.pairs, f"{' and '.join(sorted(own))} together", together)
    return chosen


def _draw(path: Path, data: Data, shows: list[str]) -> None:
    """From whole shows to clips by the pipeline's own verbs, each of which goes on where it stopped."""
    from toolkit.commands.cache import cache
    from toolkit.commands.caption import caption
    from toolkit.commands.prepare import prepare
    from toolkit.sandbox.world.shows import BAND_CROP, draw
    from toolkit.sandbox.world.world import FPS, HEIGHT, NUM_FRAMES, WIDTH

    episodes = draw(
        path / "footage",
        shows=shows,
        characters=list(data.characters),
        episodes=data.episodes,
        shots=data.shots,
        seed=data.seed,
    )
    clips = path / "clips"
    prepare(episodes, clips, fps=FPS, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, crop=BAND_CROP)
    caption(clips, captioner="sidecar")
    cache(clips)


def _choose_and_write(path: Path, clips: Path, data: Data) -> None:
    """Copy the chosen clips with their latents, make composites, write captions in the wanted form."""
    from toolkit.commands.cache import cache

    cast = read_cast()
    shows, composites = path / "shows", path / "composites"
    for half_full in (shows, composites):
        shutil.rmtree(half_full, ignore_errors=True)
    copy_clips(choose(read_clips(clips), data, cast), clips, shows)
    folders = [shows]
    if data.composites:
        _paste(shows, composites, data)
        folders.append(composites)
    for folder in folders:
        for clip in read_clips(folder):
            write_clip(folder, replace(clip, text=FORMS[data.captions](parse(clip.text, cast))))
        write_index(folder)
        cache(folder)


def _paste(clips: Path, out: Path, data: Data) -> None:
    """Masks beside the clips, then composites of two."""
    from toolkit.commands.composite import composite
    from toolkit.commands.segment import segment
    from toolkit.compositing.blending import Edge
    from toolkit.compositing.eligible_clips import Choice
    from toolkit.compositing.placement import Place

    if data.masks == "truth":
        segment(clips, backend="truth")
    else:
        segment(clips, backend="sam2", detect="reference", checkpoint="sandbox")
    edge = Edge() if data.edge == "soft" else Edge(erode=0, feather=0)
    # on so small a canvas two creatures hardly ever keep clear of each other
    place = Place(overlap=0.25, outside=0.5)
    composite(
        [clips], out, count=data.composites, choice=Choice(three=0), place=place, edge=edge, seed=data.seed
    )


def copy_clips(chosen: Sequence[Clip], clips: Path, out: Path) -> None:
    """Clips and their samples; `cache` will find the latents there and encode captions alone."""
    from toolkit.models.registry import find_model
    from toolkit.training.cached_clips import cache_folder

    spec = find_model("sandbox")
    samples, target = cache_folder(clips, spec), cache_folder(out, spec)
    for folder in (out / "clips", target):
        folder.mkdir(parents=True, exist_ok=True)
    for clip in chosen:
        shutil.copyfile(clip.path, out / "clips" / clip.path.name)
        shutil.copyfile(samples / f"{clip.id}.safetensors", target / f"{clip.id}.safetensors")
        write_clip(out, replace(clip, path=out / "clips" / clip.path.name))
