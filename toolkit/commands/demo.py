"""`castmix demo`: all stages on the sandbox, from two drawn shows to two characters in one scene."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.captions.cast import Show, read_cast
from toolkit.commands.cache import cache
from toolkit.commands.caption import caption
from toolkit.commands.composite import composite
from toolkit.commands.demo_page import Pair, curve, write_page, write_preview
from toolkit.commands.generate import generate
from toolkit.commands.prepare import prepare
from toolkit.commands.segment import segment
from toolkit.commands.train import train
from toolkit.compositing.eligible_clips import Choice
from toolkit.compositing.placement import Place
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say, stage, track
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.video import read_video, write_video
from toolkit.sampling.settings import Sampling
from toolkit.training.settings import Batches, Memory, Optim, Watch, can_compile

GUIDANCE = 2.0
"""Stronger guidance oversaturates the small base with a LoRA; the recogniser then fails."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the characters that it asks for, each with the style of its show."""

    text: str
    asked: tuple[tuple[str, str], ...]

    @property
    def alone(self) -> bool:
        """Whether it asks for one character."""
        return len(self.asked) == 1


def demo_prompts(shows: Sequence[Show], each: int = 8) -> list[Prompt]:
    """`each` prompts for the lead of either show alone, then 2 x `each` for both leads together."""
    from toolkit.captions.grammar import Caption, Clause, format
    from toolkit.sandbox.world.actions import BASE_ACTIONS

    actions, places = list(BASE_ACTIONS), ["in the meadow", "in the room", "on the beach", "in the snow"]
    left, right = ((show.characters[0].name, show.style) for show in shows[:2])
    prompts = []
    for name, style in (left, right):
        for k in range(each):
            clause = Clause(name, f"{actions[k % len(actions)]} {places[k % len(places)]}")
            prompts.append(Prompt(format(Caption((clause,), style)), ((name, style),)))
    for k in range(2 * each):
        first = Clause(left[0], f"{actions[k % len(actions)]} {places[k % len(places)]}")
        second = Clause(right[0], actions[(3 * k + 2) % len(actions)])
        text = format(Caption((first, second), shows[k % 2].style))
        prompts.append(Prompt(text, (left, right)))
    return prompts


def base_clips(out: Path, count: int, seed: int) -> Path:
    """Draw clips of the base model's own world ("strangers"), captioned in prose. Existing clips are kept.

    Training on them as well keeps names from leaking to other characters. Returns `out`.
    """
    from toolkit.sandbox.world import population, world
    from toolkit.sandbox.world.shows import named_looks

    looks = population.generic_looks(list(named_looks().values()))
    cast = population.pretraining_cast(looks)
    for index in track(range(count), "drawing clips of strangers"):
        path = out / "clips" / f"stranger-{index:04d}.mp4"
        if path.with_suffix(".json").exists():
            continue
        scenario = population.sample_scenario(900_000_000 + seed * 100_000 + index, looks, cast)
        frames, _ = scenario.draw()
        write_video(path, frames, world.FPS)
        end = (len(frames) - 1) / world.FPS
        height, width = frames.shape[1:3]
        clip = Clip(path, scenario.caption, "sandbox", 0.0, end, world.FPS, len(frames), width, height, 0, {})
        write_clip(out, clip)
    write_index(out)
    return out


def judge(videos: Sequence[Path], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Let the sandbox's recognisers judge videos of these prompts.

    Returns `identity` (share of prompts with one character where it is seen), `both_present` (share of those
    with two where both are), `style_kept` (share of those with two where both are seen, each in its own
    show's style), and `seen`, what was seen in each video, name → style.
    """
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many

    verdicts = recognise_many(load_recognisers(), [read_video(video)[0] for video in videos])
    seen = [{c.who: c.style for c in verdict.creatures if c.who} for verdict in verdicts]
    right = [all(name in found for name, _ in p.asked) for p, found in zip(prompts, seen, strict=True)]
    styled = [all(found.get(n) == s for n, s in p.asked) for p, found in zip(prompts, seen, strict=True)]

    def share(answers: Sequence[bool], alone: bool) -> float:
        picked = [a for a, p in zip(answers, prompts, strict=True) if p.alone == alone]
        return round(sum(picked) / len(picked), 4)

    return {
        "identity": share(right, True),
        "both_present": share(right, False),
        "style_kept": share(styled, False),
        "seen": seen,
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str, title: str) -> Iterator[None]:
    stage(title)
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)


def demo(
    out: Path,
    *,
    steps: int = 700,
    batch_size: int = 16,
    shots: int = 16,
    strangers: int = 96,
    composites: int = 96,
    each: int = 8,
    sample_steps: int = 12,
    seed: int = 0,
) -> Path:
    """Draw two shows, fine-tune their characters, mix two of them in one scene, and score the videos.

    Runs every stage on the sandbox and writes a page with the results.

    Args:
        out: Folder for everything. `index.html` is the page, `scores.json` has the scores.
        steps: Training steps.
        batch_size: Clips per step; a quarter of them come from the base model's own world ("strangers").
        shots: Shots in the one episode of each show.
        strangers: Number of clips of strangers.
        composites: Number of composites: a character of one show pasted into a clip of the other.
        each: Number of prompts for each of the two leads alone; twice as many ask for both.
        sample_steps: Denoising steps per video.
        seed: Seed of footage, training and videos.

    Returns:
        The path of index.html.

    Raises:
        CastmixError: A number is below 1, or `out` holds a demo with other settings.
    """
    settings = {name: value for name, value in locals().items() if name != "out"}
    too_small = [name for name, value in settings.items() if value < 1 and name != "seed"]
    if too_small:
        raise CastmixError(f"{', '.join(too_small)} of the demo must be 1 or more")
    out, shows = Path(out), _one_show_a_style()
    _same_as_before(out / "demo.json", settings)
    seconds: dict[str, float] = {}
    _make_data(out, shows, _Counts(shots, strangers, composites), seed, seconds)
    with _timed(seconds, "train", "6/8 One rank-32 LoRA for the characters of both shows"):
        lora = _fine_tune(out, steps, batch_size, seed)
    prompts = demo_prompts(shows, each)
    with _timed(seconds, "generate", "7/8 The same prompts before and after"):
        before, after = (
            _generate(out / side, prompts, loras, sample_steps, seed)
            for side, loras in (("before", []), ("after", [str(lora)]))
        )
    with _timed(seconds, "judge", "8/8 Recognisers look at them"):
        first, last = judge(before, prompts), judge(after, prompts)
    scores = _scores(first, last, prompts) | {"seed": seed, "seconds": seconds}
    pairs = [
        Pair(p.text, b, a, sb, sa, p.alone)
        for p, b, a, sb, sa in zip(prompts, before, after, first["seen"], last["seen"], strict=True)
    ]
    return _report(out, scores, pairs)


def _one_show_a_style() -> list[Show]:
    """The sandbox's first cartoon show and its first realistic one."""
    sandbox = [show for show in read_cast().shows if show.source == "sandbox"]
    return [next(s for s in sandbox if s.style == style) for style in ("cartoon", "realistic")]


def _same_as_before(path: Path, settings: dict[str, int]) -> None:
    """Save the settings beside the demo; other settings in the same folder are an error."""
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = [f"{k} was {before.get(k)}, is {v}" for k, v in settings.items() if before.get(k) != v]
    if changed:
        told = ", ".join(changed)
        raise CastmixError(f"{path.parent} holds a demo of other settings ({told}): use another --out")
    write_atomic(path, json.dumps(settings, indent=1) + "\n")


@dataclass(frozen=True)
class _Counts:
    """How many shots, strangers and composites are drawn."""

    shots: int
    strangers: int
    composites: int


def _make_data(
    out: Path, shows: Sequence[Show], counts: _Counts, seed: int, seconds: dict[str, float]
) -> None:
    """Stages 1 to 5: footage, clips, captions, composites and caches in `out`."""
    from toolkit.sandbox.world.shows import BAND_CROP, draw
    from toolkit.sandbox.world.world import FPS, HEIGHT, NUM_FRAMES, WIDTH

    data = out / "data"
    with _timed(seconds, "draw", "1/8 Two shows, drawn by code"):
        ids, leads = [show.id for show in shows], [show.characters[0].name for show in shows]
        episodes = draw(
            out / "footage", shows=ids, characters=leads, episodes=1, shots=counts.shots, seed=seed
        )
        base_clips(out / "strangers", counts.strangers, seed)
    with _timed(seconds, "prepare", "2/8 Episodes become clips of one shot each"):
        prepare(episodes, data, fps=FPS, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, crop=BAND_CROP)
    with _timed(seconds, "caption", "3/8 Clips get captions: who does what, in which style"):
        caption(data, captioner="sidecar")
    with _timed(seconds, "composite", "4/8 Some characters are cut out and pasted into the other show"):
        segment(data, backend="truth")
        # the canvas is small: two creatures usually overlap
        place = Place(overlap=0.3, outside=0.3)
        composite(
            [data],
            out / "composites",
            count=counts.composites,
            choice=Choice(three=0),
            place=place,
            seed=seed,
        )
    with _timed(seconds, "cache", "5/8 Clips and captions become latents and embeddings"):
        for folder in (data, out / "composites", out / "strangers"):
            cache(folder)


def _fine_tune(out: Path, steps: int, batch_size: int, seed: int) -> Path:
    return train(
        [out / "data", out / "composites"],
        out / "lora",
        steps=steps,
        batches=Batches(
            batch_size=batch_size, preserve=out / "strangers", preserve_share=0.25, caption_dropout=0.05
        ),
        optim=Optim(lr=6e-3, schedule="cosine"),
        # compiling takes half a minute; about a hundred steps make up for it
        memory=Memory(precision="bfloat16", compile=steps >= 100 and can_compile()),
        watch=Watch(validate_every=max(1, steps // 6), sample_every=0),
        seed=seed,
    )


def _generate(out: Path, prompts: Sequence[Prompt], lora: list[str], steps: int, seed: int) -> list[Path]:
    return generate(
        [prompt.text for prompt in prompts],
        out,
        lora=lora,
        sampling=Sampling(steps=steps, guidance_scale=GUIDANCE),
        seed=seed,
        batch_size=8,
    )


def _scores(first: dict[str, Any], last: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The demo's scores, from verdicts before and after training."""
    return {
        "identity_before": first["identity"],
        "identity_after": last["identity"],
        "both_present": last["both_present"],
        "both_present_before": first["both_present"],
        "style_kept": last["style_kept"],
        "prompts_alone": sum(p.alone for p in prompts),
        "prompts_both": sum(not p.alone for p in prompts),
    }


def _report(out: Path, scores: dict[str, Any], pairs: Sequence[Pair]) -> Path:
    """Write scores, page and preview, and say the scores. Returns the page."""
    write_atomic(out / "scores.json", json.dumps(scores, indent=1) + "\n")
    page = write_page(out, scores, pairs, read_clips(out / "data"), curve(out / "lora" / "metrics.jsonl"))
    write_preview(out / "preview.png", [p for p in pairs if not p.alone][1::3][:4])
    say(f"identity {scores['identity_before']:.2f} before, {scores['identity_after']:.2f} after")
    both, kept = scores["both_present"], scores["style_kept"]
    say(f"both characters in one scene {both:.2f}, both in their own style {kept:.2f}")
    say(f"{sum(scores['seconds'].values()):.0f} s in all; look at {page}")
    return page
