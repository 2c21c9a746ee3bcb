"""Draws what flt_accuracy prints, and writes it into docs/flt.md as tables.

    build/release/bin/flt_accuracy | python3 bench/plot_flt_accuracy.py

Writes docs/flt_accuracy.svg and what follows the heading "Accuracy" in docs/flt.md.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "flt"  # The same picture for the same numbers.

import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HEADING = "## Accuracy\n"
KINDS = ("gaussian_mixture", "shift_invariant", "local_box")

Rows = list[dict[str, str]]


def select(rows: Rows, **wanted: str) -> Rows:
    """Returns the rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def table(head: list[str], lines: list[list[str]]) -> str:
    """Returns a Markdown table."""
    parts = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in parts)


def sweep_table(rows: Rows, sweep: str, column: str, title: str) -> str:
    """A table of maps over one column."""
    chosen = select(rows, sweep=sweep)
    maps = list(dict.fromkeys(row["map"] for row in chosen))
    values = list(dict.fromkeys(row[column] for row in chosen))
    lines = [
        [f"`{name}`", *(row["error"][:5] for row in select(chosen, map=name))] for name in maps
    ]
    return table([title, *values], lines)


def text(rows: Rows) -> str:
    """Returns what stands under the heading."""
    waves = ["4", "8", "16", "32", "64"]
    mask_lines, form_lines = [], []
    for kind in KINDS:
        mask_lines.append(
            [f"`{kind}`", *(row["error"][:5] for row in select(rows, sweep="mask", rpe=kind))]
        )
        for form in ("additive", "multiplicative"):
            chosen = select(rows, sweep="waves", rpe=kind, form=form)
            form_lines.append([f"`{kind}`, {form}", *(row["error"][:5] for row in chosen)])
    norms = [
        [
            {"root": "sqrt(E)", "chi": "chi"}[kind],
            *(row["error"][:5] for row in select(rows, sweep="rows", norms=kind)),
        ]
        for kind in ("root", "chi")
    ]
    return f"""{HEADING}
`flt_accuracy` measures it and `bench/plot_flt_accuracy.py` writes this section. Outputs of 96 rows,
head dimension 16, values normal, queries and keys of one norm (of sqrt(s) q) in random directions,
against exact softmax attention in double: root of the mean square of the difference over that of
the exact outputs, over 6 draws.

![error of feature maps, masks and forms](flt_accuracy.svg)

Without positions, norm 1, over features:

{sweep_table(rows, "features", "features", "map")}
`elu` and `dpfp` have as many features as their inputs make, here 16 and 32; the last three maps are
kernels of their own and not estimates of the exponential. `favor_plus_plus` has rows of chi norms,
which its formula needs, and pays for them at this size.

128 features, over the norm: past 1.5 no map is near exact attention. Bound the norms, as
`FLTAttention` does.

{sweep_table(rows, "norm", "norm", "map")}
`favor_plus`, 256 features, rows of two norms, over the norm of q and k:

{table(["rows", "0.5", "1", "2"], norms)}
The mask of r waves against the one that its spectrum is the transform of, which reaches some 8 of
97 offsets. Frequencies from a lattice converge nearly as 1/r; a window's edges ring:

{table(["encoding", *waves, "128"], mask_lines)}
Outputs with a mask, against exact attention with *the same waves*, norm 1, 128 features. In the
exponent the waves' norm adds to the error of random features; as a factor the mask costs nothing:

{table(["encoding", *waves], form_lines)}"""


def draw(rows: Rows) -> None:
    """Writes the picture."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for name in dict.fromkeys(row["map"] for row in select(rows, sweep="norm")):
        for axis, sweep, column in ((axes[0], "features", "features"), (axes[1], "norm", "norm")):
            chosen = select(rows, sweep=sweep, map=name)
            axis.plot(
                [float(row[column]) for row in chosen],
                [float(row["error"]) for row in chosen],
                marker="o",
                label=name,
            )
    for kind, color in zip(KINDS, ("C0", "C1", "C2")):
        for form, style in (("additive", "-"), ("multiplicative", "--")):
            chosen = select(rows, sweep="waves", rpe=kind, form=form)
            axes[2].plot(
                [float(row["waves"]) for row in chosen],
                [float(row["error"]) for row in chosen],
                style,
                color=color,
                marker="o",
                label=f"{kind}, {form}",
            )
    for axis, title, label in (
        (axes[0], "no positions, norm 1", "features"),
        (axes[1], "no positions, 128 features", "norm of sqrt(s) q and sqrt(s) k"),
        (axes[2], "with a mask, norm 1, 128 features", "waves"),
    ):
        axis.set(title=title, xlabel=label, ylabel="relative error", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_xscale("log", base=2)
    axes[2].set_xscale("log", base=2)
    axes[1].legend(fontsize=7)
    axes[2].legend(fontsize=7)
    figure.savefig(ROOT / "docs/flt_accuracy.svg", metadata={"Date": None})


def main() -> None:
    """Reads the measurements and writes the picture and the section."""
    rows = list(csv.DictReader(sys.stdin))
    draw(rows)
    page = ROOT / "docs/flt.md"
    before = page.read_text().split(HEADING)[0]
    page.write_text(before + text(rows))


if __name__ == "__main__":
    main()
