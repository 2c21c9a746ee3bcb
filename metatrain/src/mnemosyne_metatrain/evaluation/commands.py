"""The commands that judge: evaluate, report, ablate."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Commands = Any


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def task_names(text: str) -> tuple[str, ...]:
    """Names of tasks, or of sets: validation, second, test, big, check.

    Raises:
        ValueError: If a name is not known.
    """
    from mnemosyne_metatrain.suite import BIG, CHECK, SECOND, TEST, VALIDATION, every_task

    sets = {"validation": VALIDATION, "second": SECOND, "test": TEST, "big": BIG, "check": CHECK}
    names = [name for part in text.split(",") for name in sets.get(part, [part])]
    unknown = sorted(set(names) - set(every_task()))
    if unknown:
        known = ", ".join((*sets, *sorted(every_task())))
        raise ValueError(f"no such tasks: {', '.join(unknown)}; there are {known}")
    return tuple(dict.fromkeys(names))


def _check_there(paths: Sequence[Path]) -> None:
    """Checks that records are there: a report of none would say nothing, and not why.

    Raises:
        ValueError: If a file is not.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"there are no records {path}: `evaluate` or `restore` writes them")


def use_compile_cache(folder: Path | None) -> None:
    """Keeps compiled programs in a folder, if one is given."""
    if folder is None:
        return
    import jax

    update: Any = jax.config.update
    update("jax_compilation_cache_dir", str(folder))
    update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _evaluate(arguments: argparse.Namespace) -> None:
    use_compile_cache(arguments.compile_cache)
    from mnemosyne_metatrain.evaluation.divergence import count_divergences
    from mnemosyne_metatrain.evaluation.judge import Clock, Plan
    from mnemosyne_metatrain.evaluation.program import Evaluation, Leg
    from mnemosyne_metatrain.evaluation.records import Book, Journal
    from mnemosyne_metatrain.evaluation.summary import print_summary, summarize
    from mnemosyne_metatrain.evaluation.weights import load_candidates, parse_source

    baselines = arguments.baselines or arguments.out.with_suffix(".baselines.jsonl")
    plan = Plan(
        horizons=_numbers(arguments.horizons),
        told=_numbers(arguments.told),
        seeds=arguments.seeds,
        baselines=not arguments.no_baselines,
        speedup=not arguments.no_speedup,
    )
    tasks = task_names(arguments.tasks)
    sources = [parse_source(text) for text in arguments.weights]
    if arguments.count_divergences:
        clock = Clock(time.time() + 60.0 * arguments.minutes)
        journal = Journal(arguments.out)
        longest = max(plan.horizons)
        count_divergences(sources, tasks, arguments.count_divergences, longest, journal, clock)
        return
    if arguments.fresh_seeds:
        from mnemosyne_metatrain.evaluation.fresh import run_fresh

        clock = Clock(time.time() + 60.0 * arguments.minutes)
        known, journal = Book.load([baselines]), Journal(arguments.out)
        found, seeds = load_candidates(sources), arguments.fresh_seeds
        run_fresh(found, tasks, plan.horizons, seeds, known, journal, clock)
        return
    leg = Leg(
        plan,
        tasks,
        arguments.out,
        baselines,
        arguments.minutes,
        arguments.check_baselines,
        arguments.wait,
    )
    Evaluation(leg, sources).run()
    book = Book.load([arguments.out, baselines])
    for horizon in plan.horizons:
        for name in book.names():
            for against in ("constant", "best"):
                summary = summarize(book, tasks, name, horizon, against, draws=200)
                if summary is not None:
                    print_summary(summary)


def add_evaluate(commands: Commands) -> None:
    """Adds `evaluate`."""
    command = commands.add_parser("evaluate", help="judge weights against tuned classic rules")
    command.add_argument(
        "weights",
        nargs="*",
        help="[NAME=]FILE.safetensors or [NAME=]CONFIG:FOLDER[:VARIANT,...], with @KNOB=VALUE,...",
    )
    command.add_argument(
        "--tasks", default="validation", help="names, validation, second, test, big, check"
    )
    command.add_argument("--horizons", default="500,2000", help="10000 is for cheap tasks alone")
    command.add_argument("--told", default="", help="horizons of runs that are told theirs")
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--no-baselines", "--no-adam", action="store_true", dest="no_baselines")
    command.add_argument("--no-speedup", action="store_true", help="tune at the horizons alone")
    command.add_argument("--wait", action="store_true", help="wait for the runs to end")
    command.add_argument("--out", type=Path, required=True, help="learned runs, one a line")
    command.add_argument("--baselines", type=Path, help="baselines; by default beside --out")
    command.add_argument("--minutes", type=float, default=1e9, help="of this leg")
    command.add_argument("--compile-cache", type=Path, help="folder of compiled programs")
    command.add_argument(
        "--check-baselines", type=float, default=0.0, metavar="SHARE", help="run some again"
    )
    command.add_argument(
        "--count-divergences", type=int, default=0, metavar="RUNS", help="guard on and off, only"
    )
    command.add_argument(
        "--fresh-seeds",
        type=int,
        default=0,
        metavar="SEEDS",
        help="run weights and the recorded best Adam on seeds that nothing was chosen on, only",
    )
    command.set_defaults(run_command=_evaluate)


def _report(arguments: argparse.Namespace) -> None:
    import json

    from mnemosyne_metatrain.report.program import write_report

    _check_there(arguments.records)
    facts = json.loads(arguments.facts.read_text()) if arguments.facts else {}
    names = [name for name in arguments.names.split(",") if name]
    horizons = _numbers(arguments.horizons)
    data = write_report(arguments.records, names, horizons, facts, arguments.out)
    print(json.dumps(data["headline"], indent=1))


def add_report(commands: Commands) -> None:
    """Adds `report`."""
    command = commands.add_parser("report", help="write results.json, documents and plots")
    command.add_argument("records", type=Path, nargs="+", help="files written by evaluate")
    command.add_argument("--names", default="", help="optimizers, the shipped one first")
    command.add_argument("--horizons", default="500,2000")
    command.add_argument("--facts", type=Path, help="JSON object that is added to the headline")
    command.add_argument("--out", type=Path, required=True, help="folder of the documents")
    command.set_defaults(run_command=_report)


def _restore(arguments: argparse.Namespace) -> None:
    import json

    from mnemosyne_metatrain.evaluation.restore import restored

    try:
        records = restored(json.loads(arguments.results.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{arguments.results} is no results.json of `report`") from error
    for path, rows in zip((arguments.out, arguments.baselines), records, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        print(f"{path}: {len(rows)} rows")


def add_restore(commands: Commands) -> None:
    """Adds `restore`."""
    command = commands.add_parser("restore", help="make records from a results.json")
    command.add_argument("results", type=Path, help="docs/results.json")
    command.add_argument("--out", type=Path, required=True, help="learned runs, one a line")
    command.add_argument("--baselines", type=Path, required=True, help="baselines, one a line")
    command.set_defaults(run_command=_restore)


def _ablate(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.report.ablation import Labelled, write_ablation

    _check_there(arguments.records)
    configs = [Labelled.parse(text) for text in arguments.configs]
    base = arguments.base or configs[0].names[0]
    rows = [name for config in configs for name in config.names]
    if base not in rows:
        raise ValueError(f"--base {base} is no row; there are {', '.join(rows)}")
    tasks, horizons = task_names(arguments.tasks), _numbers(arguments.horizons)
    for row in write_ablation(arguments.records, configs, tasks, horizons, base, arguments.out):
        cells = [
            f"{horizon}: {found[figure]:.3f}"
            for horizon, found in row["horizons"].items()
            for figure in ("val_loss_ratio_iqm", "over_base_iqm")
            if found[figure] is not None
        ]
        print(f"{row['name']:>24} {'  '.join(cells) or 'not run'}")


def add_ablate(commands: Commands) -> None:
    """Adds `ablate`."""
    command = commands.add_parser("ablate", help="compare variants from their records")
    command.add_argument("records", type=Path, nargs="+", help="files written by evaluate")
    command.add_argument(
        "--configs",
        nargs="+",
        required=True,
        help="[NAME=]FILE whose variants are the rows, or weights as evaluate takes them",
    )
    command.add_argument("--base", default="", help="what others are divided by; the first row")
    command.add_argument("--tasks", default="validation")
    command.add_argument("--horizons", default="500,2000")
    command.add_argument("--out", type=Path, required=True, help="path without a suffix")
    command.set_defaults(run_command=_ablate)
