"""Generates the benchmark's prompt files from ``templates.yaml`` and the cast registry.

A benchmark has fifty prompts about one character (kind "single") and fifty about two or three (kind "multi").
The prompts are deterministic, and every character appears about equally often.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import yaml

from toolkit.captions.cast import STYLES, Cast, Show, Style, read_cast
from toolkit.captions.grammar import Caption, Clause, format
from toolkit.captions.prompt_files import BENCHMARKS, Prompt, prompts_folder
from toolkit.core.files import write_atomic


def write_prompts(folder: Path | None = None) -> list[Path]:
    """Write one prompt file per benchmark to `folder` (default ``presets/prompts/``); return the paths."""
    paths = []
    for name in BENCHMARKS:
        paths.append((folder or prompts_folder()) / f"{name}.jsonl")
        rows = (json.dumps(asdict(prompt), ensure_ascii=False) for prompt in make_prompts(name))
        write_atomic(paths[-1], "".join(row + "\n" for row in rows))
    return paths


def make_prompts(benchmark: str, characters: Sequence[str] | None = None) -> list[Prompt]:
    """Generate the prompts of a benchmark. The result is deterministic.

    Each prompt is assigned to the characters that have appeared least so far, among those with the relation
    that the prompt needs. Every character therefore appears about equally often.

    Args:
        benchmark: "sandbox" or "paper".
        characters: Characters to use instead of the benchmark's ten. Prompts that they cannot fill are left
            out, e.g. two characters of one show if each is from another show.
    """
    plan = yaml.safe_load((prompts_folder() / "templates.yaml").read_text(encoding="utf-8"))
    pool = _CharacterPool.of(plan["benchmarks"][benchmark], characters, read_cast())
    places = list(plan["places"].values())
    return [*_single(plan["single"], pool, places), *_multi(plan["multi"], pool, places)]


@dataclass(frozen=True)
class _CharacterPool:
    """The characters of a benchmark, their actions, and counts of their appearances.

    Attributes:
        names: Canonical names of the characters.
        shows: Show of each character.
        actions: Actions that all characters share.
        habits: Actions of each character alone.
        interactions: Actions of the characters that take part in an interaction, by its name.
        next_actions: Endless iterator over each character's solo actions.
        counts: Number of appearances of each character, of each group (a frozenset of names), and of each
            character as the first in a prompt (key ("first", name)).
    """

    names: tuple[str, ...]
    shows: Mapping[str, Show]
    actions: Sequence[str]
    habits: Mapping[str, Sequence[str]]
    interactions: Mapping[str, Sequence[str]]
    next_actions: Mapping[str, Iterator[str]]
    counts: Counter[object]

    @classmethod
    def of(cls, benchmark: Mapping[str, Any], names: Sequence[str] | None, registry: Cast) -> _CharacterPool:
        """Build the pool from an entry of templates.yaml. Missing habits come from the cast registry."""
        chosen = tuple(names or benchmark["characters"])
        actions, given = benchmark["actions"], benchmark.get("habits", {})
        found = {name: registry.find(name) for name in chosen}
        own = {name: [h for h in (person.signature, person.gait) if h] for name, (_, person) in found.items()}
        habits = {name: given.get(name, own[name]) for name in chosen}
        next_actions = {name: _alternate(actions, habits[name], i) for i, name in enumerate(chosen)}
        shows = {name: show for name, (show, _) in found.items()}
        return cls(chosen, shows, actions, habits, benchmark["interactions"], next_actions, Counter())

    def style(self, name: str) -> Style:
        """Return the style of the character's show."""
        return self.shows[name].style

    def relation(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the relation of a prompt's characters: (inter- or intra-style, inter- or intra-show)."""
        shows = {self.shows[name].id for name in names}
        styles = {self.style(name) for name in names}
        return (
            "inter-style" if len(styles) > 1 else "intra-style",
            "inter-show" if len(shows) > 1 else "intra-show",
        )

    def choose(self, group: str, size: int, number: int) -> tuple[str, ...]:
        """Choose the `size` characters for the `number`-th prompt of a relation that have appeared least.

        Returns an empty tuple if no characters have this relation (`group`).
        """
        mixed, style = group == "inter-style", STYLES[number % 2]
        lead = STYLES[number // 2 % 2] if mixed else style
        options = [
            names
            for names in permutations(self.names, size)
            if group in self.relation(names)
            and self.style(names[0]) == lead
            and (mixed or {self.style(name) for name in names} == {style})
        ]

        def appeared(names: tuple[str, ...]) -> tuple[int, ...]:
            count = self.counts
            return sum(count[n] for n in names), count[frozenset(names)], count[("first", names[0])]

        chosen = min(options, key=appeared, default=())
        self.counts.update([*chosen, frozenset(chosen), ("first", *chosen[:1])])
        return chosen


def _alternate(actions: Sequence[str], habits: Sequence[str], start: int) -> Iterator[str]:
    """Alternate endlessly between shared actions and the character's habits, starting at action `start`."""
    order = [actions[(start + 3 * k) % len(actions)] for k in range(len(actions))]
    pairs = zip(order, cycle(habits or order), strict=False)
    return cycle([doing for pair in pairs for doing in pair])


def _single(plan: Sequence[str], pool: _CharacterPool, places: Sequence[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for i, name in enumerate(pool.names):
        habits = iter(pool.habits[name])
        actions = iter([pool.actions[(3 * i + k) % len(pool.actions)] for k in range(len(plan))])
        for k, doing in enumerate(plan):
            action = next(habits, None) if doing == "habit" else None
            clause = Clause(name, f"{action or next(actions)} {places[(i + k) % len(places)]}")
            text = format(Caption((clause,), pool.style(name)))
            prompts.append(Prompt(f"single-{len(prompts) + 1:02d}", text, "single", (), (name,)))
    return prompts


def _multi(
    plan: Mapping[str, Sequence[int | str]], pool: _CharacterPool, places: Sequence[str]
) -> list[Prompt]:
    prompts: list[Prompt] = []
    for group, doings in plan.items():
        for number, doing in enumerate(doings):
            roles = () if isinstance(doing, int) else pool.interactions[doing]
            names = pool.choose(group, doing if isinstance(doing, int) else len(roles), number)
            if not names:
                continue
            tags = [f"[Character: {name}]" for name in names]
            actions = [
                role.format(*tags) for role in roles or [next(pool.next_actions[name]) for name in names]
            ]
            actions[0] += f" {places[(number + number // len(places)) % len(places)]}"
            style = STYLES[number % 2]
            text = format(Caption(tuple(map(Clause, names, actions)), style))
            relation = pool.relation(names)
            prompts.append(Prompt(f"multi-{len(prompts) + 1:02d}", text, "multi", relation, names))
    return prompts
