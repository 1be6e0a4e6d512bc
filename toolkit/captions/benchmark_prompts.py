"""Makes the benchmark's prompt files from templates and the cast."""

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
    """Write the benchmark's files; the ones in ``presets/prompts/`` if no other folder is given."""
    paths = []
    for name in BENCHMARKS:
        paths.append((folder or prompts_folder()) / f"{name}.jsonl")
        rows = (json.dumps(asdict(prompt), ensure_ascii=False) for prompt in make_prompts(name))
        write_atomic(paths[-1], "".join(row + "\n" for row in rows))
    return paths


def make_prompts(benchmark: str, characters: Sequence[str] | None = None) -> list[Prompt]:
    """The prompts of a benchmark; always the same ones.

    Everybody appears about equally often: each prompt is given to those of its relation who have appeared
    least so far.

    Args:
        benchmark: "sandbox" or "paper".
        characters: Make them about these instead of the benchmark's ten. What they cannot play (two of one
            show, where every one is from another) is left out.
    """
    plan = yaml.safe_load((prompts_folder() / "templates.yaml").read_text(encoding="utf-8"))
    troupe = _Troupe.of(plan["benchmarks"][benchmark], characters, read_cast())
    places = list(plan["places"].values())
    return [*_single(plan["single"], troupe, places), *_multi(plan["multi"], troupe, places)]


@dataclass(frozen=True)
class _Troupe:
    """Whom the prompts are about, what they do, and how often each has appeared.

    `turns` gives each character's next solo action, `counts` how often a character, a group of them, or a
    character as the first of a prompt has appeared.
    """

    names: tuple[str, ...]
    shows: Mapping[str, Show]
    actions: Sequence[str]
    habits: Mapping[str, Sequence[str]]
    interactions: Mapping[str, Sequence[str]]
    turns: Mapping[str, Iterator[str]]
    counts: Counter[object]

    @classmethod
    def of(cls, benchmark: Mapping[str, Any], names: Sequence[str] | None, registry: Cast) -> _Troupe:
        """The troupe of an entry of templates.yaml; habits that it does not give are the registry's."""
        chosen = tuple(names or benchmark["characters"])
        actions, given = benchmark["actions"], benchmark.get("habits", {})
        found = {name: registry.find(name) for name in chosen}
        own = {name: [h for h in (person.signature, person.gait) if h] for name, (_, person) in found.items()}
        habits = {name: given.get(name, own[name]) for name in chosen}
        turns = {name: _turns(actions, habits[name], i) for i, name in enumerate(chosen)}
        shows = {name: show for name, (show, _) in found.items()}
        return cls(chosen, shows, actions, habits, benchmark["interactions"], turns, Counter())

    def style(self, name: str) -> Style:
        """The style of the character's show."""
        return self.shows[name].style

    def relation(self, names: Sequence[str]) -> tuple[str, ...]:
        """How the characters of a prompt relate: by style and by show."""
        shows = {self.shows[name].id for name in names}
        styles = {self.style(name) for name in names}
        return (
            "inter-style" if len(styles) > 1 else "intra-style",
            "inter-show" if len(shows) > 1 else "intra-show",
        )

    def choose(self, group: str, size: int, number: int) -> tuple[str, ...]:
        """Those for the `number`-th prompt of a group who have appeared least; empty if none can play it."""
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


def _turns(actions: Sequence[str], habits: Sequence[str], start: int) -> Iterator[str]:
    """Endlessly: an action, the first habit, an action, the second one, and so on over all actions."""
    order = [actions[(start + 3 * k) % len(actions)] for k in range(len(actions))]
    pairs = zip(order, cycle(habits or order), strict=False)
    return cycle([doing for pair in pairs for doing in pair])


def _single(plan: Sequence[str], troupe: _Troupe, places: Sequence[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for i, name in enumerate(troupe.names):
        habits = iter(troupe.habits[name])
        actions = iter([troupe.actions[(3 * i + k) % len(troupe.actions)] for k in range(len(plan))])
        for k, doing in enumerate(plan):
            action = next(habits, None) if doing == "habit" else None
            clause = Clause(name, f"{action or next(actions)} {places[(i + k) % len(places)]}")
            text = format(Caption((clause,), troupe.style(name)))
            prompts.append(Prompt(f"single-{len(prompts) + 1:02d}", text, "single", (), (name,)))
    return prompts


def _multi(plan: Mapping[str, Sequence[int | str]], troupe: _Troupe, places: Sequence[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for group, doings in plan.items():
        for number, doing in enumerate(doings):
            roles = () if isinstance(doing, int) else troupe.interactions[doing]
            names = troupe.choose(group, doing if isinstance(doing, int) else len(roles), number)
            if not names:
                continue
            tags = [f"[Character: {name}]" for name in names]
            actions = [role.format(*tags) for role in roles or [next(troupe.turns[name]) for name in names]]
            actions[0] += f" {places[(number + number // len(places)) % len(places)]}"
            style = STYLES[number % 2]
            text = format(Caption(tuple(map(Clause, names, actions)), style))
            relation = troupe.relation(names)
            prompts.append(Prompt(f"multi-{len(prompts) + 1:02d}", text, "multi", relation, names))
    return prompts
