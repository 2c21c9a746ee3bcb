"""Draws what the demo measured: training losses and test accuracies, one line a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

INK, GRID, FAINT = "#1f2933", "#dde3ea", "#52606d"
# From the least important line to the most: the last lies on top of the others.
STYLES = [
    {"color": "#c3ccd5", "linewidth": 2.2},
    {"color": "#f2a541", "linewidth": 2.6},
    {"color": "#1d4e89", "linewidth": 2.6},
]


@dataclass
class Line:
    """One run.

    Attributes:
        label: In the legend.
        losses: Training loss of each step.
        accuracies: (step, share of test images that are right).
    """

    label: str
    losses: list[float]
    accuracies: list[tuple[int, float]]


def smooth(values: list[float], share: float = 0.08) -> np.ndarray:
    """Returns the running mean of `values`, weighted towards the newest."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = (1 - share) * mean + share * value
        weight = (1 - share) * weight + share
        result.append(mean / weight)
    return np.array(result)


def draw(path: Path, title: str, note: str, lines: list[Line]) -> None:
    """Draws losses and accuracies to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    pyplot.rcParams.update({"font.size": 11, "text.color": INK, "axes.labelcolor": INK})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11.5, 5.2))
    for line, style in zip(lines, STYLES[-len(lines) :]):
        steps = np.arange(1, len(line.losses) + 1)
        left.plot(steps, smooth(line.losses), label=line.label, **style)
        right.plot(*zip(*line.accuracies), label=line.label, **style)
    left.set(title="Training loss, smoothed", xlabel="step", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    late = [pair for line in lines for pair in line.accuracies if pair[0] > len(line.losses) / 6]
    lowest = min(value for _, value in late) - 0.02
    right.set(title="Test accuracy", xlabel="step", ylim=(max(0.0, min(lowest, 0.9)), 1.003))
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (left, right):
        axes.title.set(fontsize=12, weight="bold")
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        axes.tick_params(colors=FAINT, length=0)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    right.legend(loc="lower right", frameon=False)
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=15, weight="bold")
    figure.text(0.0125, 0.895, note, ha="left", va="center", fontsize=11, color=FAINT)
    figure.tight_layout(rect=(0, 0, 1, 0.9), w_pad=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
