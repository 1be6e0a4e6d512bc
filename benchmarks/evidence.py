"""Run a study and write what it found: ``python benchmarks/evidence.py identity``.

Every finished cell is kept below --out (a folder with its run.yaml, scores and videos) and is never run
again; one that was stopped goes on, and one whose scores.json is deleted is judged again. The whole study's
scores go to docs/results/NAME.json. The pages docs/results/README.md and docs/results/NAME.md are made from
these files, from benchmarks/claims/ and from the hand-written docs/results/notes/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # run as a script, it finds this checkout's benchmarks and toolkit

from benchmarks.figures import draw_figure  # noqa: E402
from benchmarks.gallery import draw_gallery  # noqa: E402
from benchmarks.pages import tables, write_pages  # noqa: E402
from benchmarks.place import (  # noqa: E402
    SCORES,
    Workplace,
    base_fingerprint,
    base_name,
    commit,
    cores,
    judge_fingerprint,
)
from benchmarks.results import Result, read_results, write_result  # noqa: E402
from benchmarks.store import flat, plain  # noqa: E402
from benchmarks.studies import STUDIES  # noqa: E402
from benchmarks.study import Cell, Study  # noqa: E402
from toolkit.core.errors import CastmixError  # noqa: E402
from toolkit.core.files import write_atomic  # noqa: E402
from toolkit.core.progress import say, stage  # noqa: E402

RESULTS = REPOSITORY / "docs" / "results"


def run_cell(study: Study, cell: Cell, place: Workplace) -> None:
    """Run one cell, unless it is finished, and keep what it found."""
    from toolkit.core.run_record import write_run

    folder = place.folder(study, cell)
    if place.is_done(study, cell):
        return
    folder.mkdir(parents=True, exist_ok=True)
    code = commit()  # as it is now, not as it may be when the cell is done
    found = study.run(cell.settings, cell.seed, folder, place.store)
    facts = {"commit": code, "cores": cores(), "seconds": found.seconds, "judge": place.judge}
    write_run(
        folder / "run.yaml",
        "evidence",
        {"study": study.name, "arm": cell.arm, "seed": cell.seed, "settings": cell.settings},
        command=f"{_command(study.name)} --only {cell.name}",
        base={"name": base_name(place.base), "fingerprint": place.base},
        **facts,
    )
    write_atomic(
        folder / SCORES, json.dumps({**facts, "scores": found.scores, "prompts": found.prompts}) + "\n"
    )


def run_cells(study: Study, cells: Sequence[Cell], place: Workplace, jobs: int) -> list[str]:
    """Run the cells that are not finished, `jobs` at a time; what went wrong, a line each."""
    todo = [cell for cell in cells if not place.is_done(study, cell)]
    say(f"{study.name}: {len(cells) - len(todo)} of {len(cells)} cells are finished")
    failures = []
    if jobs == 1:
        for number, cell in enumerate(todo, 1):
            stage(f"{study.name} {number}/{len(todo)}: {cell.name}")
            try:
                run_cell(study, cell, place)
            except CastmixError as error:
                failures.append(f"{cell.name}: {error}")
        return failures
    os.environ["OMP_NUM_THREADS"] = "1"  # a core each; inherited, and read when the workers import torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(_run_named, study.name, cell, place): cell for cell in todo}
        for number, future in enumerate(as_completed(futures), 1):
            name, problem = futures[future].name, future.exception()
            if problem is not None and not isinstance(problem, CastmixError):
                raise problem
            failures += [f"{name}: {problem}"] if problem else []
            say(f"{study.name} {number}/{len(todo)}: {name} {'failed' if problem else 'is done'}")
    return failures


def _run_named(study: str, cell: Cell, place: Workplace) -> None:
    run_cell(STUDIES[study], cell, place)


_NONE = object()
"""Of a setting that the baseline's kind does not have."""


def collect(study: Study, place: Workplace, command: str) -> Result:
    """What all finished cells of a study found."""
    rows: list[dict[str, Any]] = []
    prompts: dict[str, str] = {}
    common = flat(plain(dataclasses.asdict(study.arms[study.baseline])))
    for cell in study.cells():
        if not place.is_done(study, cell):
            continue
        found = json.loads((place.folder(study, cell) / SCORES).read_text())
        prompts |= found["prompts"]
        settings = flat(plain(dataclasses.asdict(cell.settings)))
        own = {name: value for name, value in settings.items() if value != common.get(name, _NONE)}
        facts = {name: found[name] for name in ("commit", "cores", "seconds", "scores")}
        rows.append({"arm": cell.arm, "seed": cell.seed, "settings": own, **facts})
    return {
        "study": study.name,
        "question": study.question,
        "command": command,
        "base": {"name": base_name(place.base), "fingerprint": place.base},
        "judge": place.judge,
        "arms": list(study.arms),
        "baseline": study.baseline,
        "contrast": list(study.contrast),
        "metrics": list(study.metrics),
        "settings": plain(dataclasses.asdict(study.arms[study.baseline])),
        "planned": len(study.cells()),
        "prompts": prompts,
        "cells": rows,
    }


def write_docs(folder: Path) -> None:
    """Make pages and figures from the JSON files of a folder."""
    for result in read_results(folder, list(STUDIES)):
        draw_figure(result, folder / f"{result['study']}.svg")
    write_pages(folder, list(STUDIES))


def _command(study: str, quick: bool = False) -> str:
    return shlex.join(["python", "benchmarks/evidence.py", study, *(["--quick"] if quick else [])])


def _choose(study: Study, quick: bool, only: Sequence[str]) -> list[Cell]:
    cells = study.cells(quick)
    unknown = set(only) - {cell.name for cell in cells}
    if unknown:
        names = ", ".join(cell.name for cell in cells)
        raise CastmixError(f"{study.name} has no cell {', '.join(sorted(unknown))}; it has {names}")
    return [cell for cell in cells if not only or cell.name in only]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", choices=list(STUDIES), help="which study")
    parser.add_argument("--quick", action="store_true", help="a few of its cells; leaves --results as it is")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="these cells alone")
    parser.add_argument(
        "--jobs", type=int, default=1, help="cells at a time, a core each (1: one, on all cores)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="where cells lie")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSON files and pages lie")
    parser.add_argument("--list", action="store_true", help="the study's cells, and which are finished")
    parser.add_argument(
        "--table", action="store_true", help="only make pages and figures from the JSON files"
    )
    args = parser.parse_args(words)
    if args.study is None and not args.table:
        parser.error(f"which study: {', '.join(STUDIES)}")
    if args.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {args.jobs}")
    try:
        return _pages(args.results) if args.table else _study(STUDIES[args.study], args)
    except CastmixError as error:
        say(f"evidence: {error}")
        return 1
    except KeyboardInterrupt:
        say("evidence: interrupted; the same command goes on")
        return 130


def _pages(folder: Path) -> int:
    write_docs(folder)
    return 0


def _study(study: Study, args: argparse.Namespace) -> int:
    place = Workplace(args.out.resolve(), base_fingerprint(), judge_fingerprint())
    cells = _choose(study, args.quick, args.only)
    if args.list:
        for cell in cells:
            state = "done" if place.is_done(study, cell) else "    "
            print(f"{state} {cell.name:40} {place.folder(study, cell)}")
        return 0
    failures = run_cells(study, cells, place, args.jobs)
    result = collect(study, place, _command(study.name, args.quick))
    if result["cells"]:
        path = args.out / study.name / "quick.json" if args.quick else args.results / f"{study.name}.json"
        result["shown"] = draw_gallery(study, place, path.with_suffix(".png"))
        write_result(path, result)
        if not args.quick:
            write_docs(args.results)
        print("\n\n".join(tables(result)))
        say(f"{path}: {len(result['cells'])} of {result['planned']} cells")
    for failure in failures:
        say(f"failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
