"""`docs/results.json` and `docs/results.md`, from records: documents hold what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mnemosyne_metatrain.evaluation.metrics import (
    bootstrap_interval,
    interquartile_mean,
    loss_ratio,
    speed_up,
)
from mnemosyne_metatrain.evaluation.program import SCHEDULES

Record = dict[str, Any]


def headline(records: list[Record], name: str, horizon: int, facts: Record) -> Record:
    """The figures of one optimizer on the tasks that have a tuned Adam, horizon not told."""
    judged = [r for r in records if r["adam"] and loss_ratio(r, name, horizon, SCHEDULES["best"])]
    result: Record = {"name": name, "horizon": horizon, "tasks": [r["task"] for r in judged]}
    if not judged:
        return {**result, **facts}
    for against, schedules in SCHEDULES.items():
        found = [loss_ratio(r, name, horizon, schedules) for r in judged]
        ratios = np.stack([f["ratio"] for f in found if f])
        speeds = np.asarray([speed_up(r, name, horizon, schedules) for r in judged], np.float64)
        suffix = "" if against == "best" else f"_{against}_adam"
        result |= {
            f"val_loss_ratio_iqm{suffix}": interquartile_mean(ratios.mean(axis=1)),
            f"val_loss_ratio_ci95{suffix}": bootstrap_interval(ratios),
            f"mean_loss_ratio_iqm{suffix}": interquartile_mean(
                [float(f["mean_ratio"].mean()) for f in found if f]
            ),
            f"speedup_iqm{suffix}": interquartile_mean(speeds),
            f"speedup_ci95{suffix}": bootstrap_interval(speeds[:, None]),
        }
    diverged = [int(f["diverged"].sum()) for f in found if f]
    spiked = [int(f["spiked"].sum()) for f in found if f]
    runs = int(sum(f["ratio"].size for f in found if f))
    result |= {"divergences_guard_off": sum(diverged), "spiked_runs": sum(spiked), "runs": runs}
    return {**result, **facts}


def table(records: list[Record], names: list[str], horizon: int) -> list[str]:
    """Markdown rows: held-out losses of the tuned Adams and of each optimizer."""
    lines = [
        "| task | parameters | Adam, constant | Adam, best of the grid | "
        + " | ".join(names)
        + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for record in records:
        cells = [record["task"], f"{record['parameters']:,}"]
        if record["adam"]:
            for schedules in SCHEDULES.values():
                found = next(
                    f
                    for f in (loss_ratio(record, n, horizon, schedules) for n in names)
                    if f is not None
                )
                cells.append(f"{float(found['adam_held_out'].mean()):.4f}")
        else:
            cells += ["not run", "not run"]
        for name in names:
            cells.append(_cell(record, name, horizon))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(record: Record, name: str, horizon: int) -> str:
    for row in record["learned"]:
        if row["name"] == name and not row["told"] and row["horizon"] >= horizon:
            values = np.asarray(row["held_out"], np.float64)[:, horizon // 125 - 1]
            return f"{values.mean():.4f} ({values.std():.4f})"
    return "not run"


def write_results(
    records: list[Record], names: list[str], horizons: list[int], facts: Record, folder: Path
) -> None:
    """Writes `results.json` and `results.md`.

    Args:
        records: Of the test set.
        names: Optimizers, the shipped one first.
        horizons: Horizons; the last is the headline's.
        facts: What else belongs to the headline: commit, minutes, notes.
        folder: docs/.
    """
    heads = [headline(records, name, h, {}) for name in names for h in horizons]
    main = headline(records, names[0], horizons[-1], facts)
    data = {"headline": main, "figures": heads, "runs": records}
    (folder / "results.json").write_text(json.dumps(data, indent=None))
    lines = ["# Results on the test set", "", str(facts.get("note", "")), ""]
    for horizon in horizons:
        lines += [f"## {horizon} steps: held-out loss, mean (standard deviation) over seeds", ""]
        lines += [*table(records, names, horizon), ""]
    lines += [
        "## Figures of merit",
        "",
        "Interquartile means over the tasks that have a tuned Adam, with 95 % intervals; the",
        "horizon is not told. A ratio is ours over Adam's; below 1 is better.",
        "",
        "| optimizer | steps | tasks | validation loss / constant Adam | / best of the grid "
        "| mean loss / best | speed-up over constant | over best | diverged |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for head in heads:
        if "val_loss_ratio_iqm" not in head:
            continue
        lines.append(
            f"| {head['name']} | {head['horizon']} | {len(head['tasks'])} "
            f"| {_interval(head, 'val_loss_ratio', '_constant_adam')} "
            f"| {_interval(head, 'val_loss_ratio', '')} | {head['mean_loss_ratio_iqm']:.3f} "
            f"| {_interval(head, 'speedup', '_constant_adam')} | {_interval(head, 'speedup', '')} "
            f"| {head['divergences_guard_off']} of {head['runs']} |"
        )
    (folder / "results.md").write_text("\n".join(lines) + "\n")


def _interval(head: Record, name: str, suffix: str) -> str:
    low, high = head[f"{name}_ci95{suffix}"]
    return f"{head[f'{name}_iqm{suffix}']:.3f} ({low:.3f} to {high:.3f})"
