"""The program `report`: results.json, results.md, results.html and plots, from records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mnemosyne_metatrain.evaluation.records import Book, Row
from mnemosyne_metatrain.report.blocks import Image, markdown, page
from mnemosyne_metatrain.report.documents import blocks
from mnemosyne_metatrain.report.plots import draw_bars, draw_curves
from mnemosyne_metatrain.report.results import collect
from mnemosyne_metatrain.suite import TEST

_TITLE = "Results on the test set"


def write_report(
    records: Sequence[Path],
    names: Sequence[str],
    horizons: Sequence[int],
    facts: Row,
    folder: Path,
) -> Row:
    """Writes everything to a folder.

    Args:
        records: Files written by `evaluate`, baselines included.
        names: Learned optimizers, the shipped one first; all that were run if empty.
        horizons: Horizons; the headline's is the last one below 10,000.
        facts: What the records do not know, for the headline.
        folder: docs/; plots go to docs/results.

    Returns:
        What `results.json` holds.
    """
    book = Book.load(records)
    names = list(names) or book.names()
    tasks = [task for task in TEST if task in book.tasks()]
    main = max((h for h in horizons if h < 10_000), default=max(horizons))
    data = collect(book, names, horizons, main, facts)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=True)
    (folder / "results.json").write_text(text + "\n")
    images = draw_all(book, data, tasks, names, main, folder / "results")
    content = blocks(book, data, names, horizons, images)
    (folder / "results.md").write_text(markdown(_TITLE, content, folder))
    (folder / "results.html").write_text(page(_TITLE, content))
    return data


def draw_all(
    book: Book, data: Row, tasks: Sequence[str], names: Sequence[str], horizon: int, folder: Path
) -> list[Image]:
    """Draws curves, speed-ups and loss ratios of one horizon."""
    figures = [
        row
        for row in data["figures"]
        if (row["horizon"], row["against"], row["told"]) == (horizon, "best", False)
    ]
    drawn = [
        (
            draw_curves(book, tasks, names, horizon, folder / "curves.png"),
            f"Held-out loss over {horizon} steps on every task",
        ),
        (
            draw_bars(
                figures,
                tasks,
                "speedups",
                f"Speed-up over the tuned Adam at {horizon:,} steps (more is better)",
                folder / "speedup.png",
                ("speedup_iqm", "speedup_ci95"),
            ),
            "Speed-up over the tuned Adam",
        ),
        (
            draw_bars(
                figures,
                tasks,
                "ratios",
                f"Held-out loss over the tuned Adam's at {horizon:,} steps (less is better)",
                folder / "ratio.png",
                ("val_loss_ratio_iqm", "val_loss_ratio_ci95"),
                worse=1.1,
            ),
            "Held-out loss over the tuned Adam's",
        ),
    ]
    return [Image(path, text) for path, text in drawn if path is not None]
