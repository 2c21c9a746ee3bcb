"""PNGs of an evaluation: curves as small multiples, and bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from mnemosyne_metatrain.evaluation.records import Book, Row, values
from mnemosyne_metatrain.evaluation.runs import SEGMENT

# Okabe and Ito's colours: told apart by readers with any colour vision. Adam is grey.
ADAM_COLOURS = {"constant": "#9a9a9a", "cosine": "#4d4d4d"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

# A ratio that is worse than this says no more than that.
_MOST = 4.0
_GRID = {"color": "#e6e6e6", "linewidth": 0.8}


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    plt.rcParams.update(
        {
            "font.size": 8.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#888888",
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version: the same records give the same bytes.
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    return path


def draw_curves(
    book: Book, tasks: Sequence[str], names: Sequence[str], horizon: int, path: Path
) -> Path:
    """Held-out loss over steps, one panel a task; bands span the seeds."""
    columns = 4
    rows = math.ceil(max(len(tasks), 1) / columns)
    figure, axes = _figure(rows, columns, 11.0, 2.2 * rows + 0.7)
    for panel, task in zip(axes.flat, tasks, strict=False):
        panel.set_title(task)
        panel.grid(axis="y", **_GRID)
        for schedule, colour in ADAM_COLOURS.items():
            row = book.tuned(task, horizon, "adam", (schedule,))
            if row is not None:
                _curve(panel, row, horizon, colour, f"Adam, {schedule}", 1.2)
        for name, colour in zip(names, COLOURS, strict=False):
            row = book.learned(task, name, horizon)
            if row is not None:
                _curve(panel, row, horizon, colour, name, 1.5)
        panel.set_yscale("log")
        panel.minorticks_off()
        low, high = panel.get_ylim()
        ticks = np.geomspace(low * 1.15, high / 1.15, 3)
        panel.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
        panel.set_xlim(0, horizon)
    for panel in list(axes.flat)[len(tasks) :]:
        panel.axis("off")
    for panel in axes[-1]:
        panel.set_xlabel("steps")
    for panel in axes[:, 0]:
        panel.set_ylabel("held-out loss")
    _legend(figure, axes)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / figure.get_figheight()))
    return _save(figure, path)


def _curve(panel: Any, row: Row, horizon: int, colour: str, label: str, width: float) -> None:
    curves = values(row, "held_out")[:, : horizon // SEGMENT]
    steps = SEGMENT * np.arange(1, curves.shape[1] + 1)
    with np.errstate(all="ignore"):
        mean = curves.mean(axis=0)
    shown = np.isfinite(mean)
    panel.plot(steps[shown], mean[shown], color=colour, linewidth=width, label=label)
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        panel.fill_between(
            steps[shown], low[shown], high[shown], color=colour, alpha=0.15, linewidth=0
        )


def _legend(figure: Any, axes: Any) -> None:
    entries: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            list(entries.values()), list(entries), loc="upper center", ncols=min(len(entries), 7)
        )


def draw_bars(
    figures: Sequence[Row],
    tasks: Sequence[str],
    key: str,
    title: str,
    path: Path,
    interval: tuple[str, str],
    worse: float | None = None,
) -> Path | None:
    """A dot a task and optimizer, and the interquartile mean with its interval as a bar.

    What is above `_MOST` is drawn there, as an arrow.

    Args:
        figures: One summary an optimizer.
        tasks: Tasks, from the top.
        key: The figure by task: "ratios" or "speedups".
        title: What is drawn.
        path: Of the PNG.
        interval: Names of the interquartile mean and of its interval.
        worse: Where a dashed line tells of a bound.

    Returns:
        The path; None if there is nothing to draw.
    """
    shown = [row for row in figures if row[key]]
    if not shown:
        return None
    places = [task for task in tasks if any(task in row[key] for row in shown)]
    figure, axes = _figure(1, 1, 8.5, 0.30 * len(places) + 0.34 * len(shown) + 1.2)
    panel = axes[0, 0]
    for index, row in enumerate(shown):
        colour = COLOURS[index % len(COLOURS)]
        shift = 0.16 * (index - (len(shown) - 1) / 2)
        heights = [i + shift for i, task in enumerate(places) if task in row[key]]
        numbers = [row[key][task] for task in places if task in row[key]]
        for number, place in zip(numbers, heights, strict=True):
            marker = "o" if number <= _MOST else ">"
            panel.plot(min(number, _MOST), place, marker, color=colour, markersize=4)
        low, high = row[interval[1]]
        middle, height = row[interval[0]], len(places) + 0.3 + index
        panel.barh(height, high - low, 0.62, left=low, color=colour, alpha=0.25)
        panel.plot([middle, middle], [height - 0.31, height + 0.31], color=colour, linewidth=2)
        text = f"{row['name']}: {middle:.2f} ({low:.2f} to {high:.2f})"
        panel.annotate(
            text,
            (high, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    panel.axvline(1.0, color="#4d4d4d", linewidth=1)
    if worse is not None:
        panel.axvline(worse, color="#4d4d4d", linewidth=0.8, linestyle=":")
    every = [v for row in shown for v in (*row[key].values(), *row[interval[1]])]
    _scale(panel, [min(v, _MOST) for v in every])
    labels = [*places, *["interquartile mean"] * len(shown)]
    heights_of_labels = [*range(len(places)), *(len(places) + 0.3 + i for i in range(len(shown)))]
    panel.set_yticks(heights_of_labels, labels)
    panel.set_ylim(len(places) + len(shown), -0.7)
    panel.grid(axis="x", **_GRID)
    panel.set_axisbelow(True)
    panel.set_title(title)
    figure.tight_layout()
    return _save(figure, path)


def draw_intervals(
    names: Sequence[str],
    series: Mapping[str, Mapping[str, tuple[float, float, float] | None]],
    title: str,
    path: Path,
) -> Path:
    """A row a name: a dot and its interval for each series.

    Args:
        names: Rows, from the top.
        series: (middle, low, high) by label and name; None where nothing was run.
        title: What is drawn.
        path: Of the PNG; its suffix is replaced.
    """
    figure, axes = _figure(1, 1, 8.5, 0.34 * len(names) + 1.3)
    panel = axes[0, 0]
    numbers: list[float] = []
    for index, (label, found) in enumerate(series.items()):
        colour, shift = COLOURS[index % len(COLOURS)], 0.22 * (index - (len(series) - 1) / 2)
        rows = [(i + shift, found[n]) for i, n in enumerate(names) if found.get(n) is not None]
        for number, (height, value) in enumerate(rows):
            assert value is not None
            middle, low, high = value
            numbers += [middle, low, high]
            panel.plot([low, high], [height, height], color=colour, linewidth=3, alpha=0.35)
            panel.plot(middle, height, "o", color=colour, label=None if number else label)
    panel.axvline(1.0, color="#4d4d4d", linewidth=1)
    _scale(panel, numbers or [1.0], room=0.05)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.grid(axis="x", **_GRID)
    panel.set_axisbelow(True)
    panel.set_title(title)
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return _save(figure, path.with_suffix(".png"))


def _scale(panel: Any, numbers: Sequence[float], room: float = 0.3) -> None:
    """A logarithmic axis with a few readable ticks, 1 among them, and room for text."""
    panel.set_xscale("log")
    low, high = min(*numbers, 1.0), max(*numbers, 1.0)
    span = math.log(max(high / low, 1.1))
    panel.set_xlim(low * math.exp(-0.05 * span), high * math.exp(room * span))
    kept = [1.0]
    for tick in (0.1, 0.25, 0.5, 2, 4, 10, 0.8, 0.9, 1.1, 1.25, 0.7, 1.5, 3, 6, 0.95, 1.05):
        inside = low * 0.98 <= tick <= high * 1.02
        if inside and all(abs(math.log(tick / other)) > 0.06 * span for other in kept):
            kept.append(float(tick))
    panel.minorticks_off()
    panel.set_xticks(sorted(kept), [f"{tick:g}" for tick in sorted(kept)])
