"""The program `ablate`: one table of all variants of some configurations, run or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemosyne_metatrain.config import RunConfig, VariantConfig, build, load_config
from mnemosyne_metatrain.evaluation.metrics import diverged
from mnemosyne_metatrain.evaluation.records import Book, Row, rounded
from mnemosyne_metatrain.evaluation.summary import Summary, against_other, summarize
from mnemosyne_metatrain.evaluation.weights import parse_source
from mnemosyne_metatrain.export import optimizer_table
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.costs import costs
from mnemosyne_metatrain.report.blocks import Block, Image, Paragraph, Table, markdown
from mnemosyne_metatrain.report.plots import draw_intervals

_NOT_RUN = "not run"


@dataclass(frozen=True)
class Labelled:
    """A configuration and the label that its weights were judged under.

    Attributes:
        label: As in `NAME=CONFIG:RUN` of `evaluate`; "" if there was none.
        config: The configuration.
    """

    label: str
    config: RunConfig

    @classmethod
    def parse(cls, text: str) -> Labelled:
        """Reads `[NAME=]FILE` of a configuration, or exported weights as `evaluate` takes them."""
        if ".safetensors" in text:
            source = parse_source(text)
            candidate = source.candidate()
            table = optimizer_table(candidate.optimizer)
            variant = VariantConfig(candidate.names[0], knobs=dict(source.knobs))
            run = RunConfig(variant.name, optimizer=table, variants=(variant,))
            return cls(candidate.names[0], run)
        label, equals, path = text.partition("=")
        return cls(label if equals else "", load_config(Path(path if equals else text)))

    @property
    def names(self) -> list[str]:
        """Names of the variants in records."""
        variants = [variant.name for variant in self.config.variants]
        if not self.label:
            return variants
        if len(variants) == 1:
            return [self.label]
        return [f"{self.label}/{name}" for name in variants]


def variant_rows(
    book: Book,
    configs: Sequence[Labelled],
    tasks: Sequence[str],
    horizons: Sequence[int],
    base: str,
) -> list[Row]:
    """One row a variant, in the order of the configurations, with what was measured or nothing."""
    rows = []
    for labelled in configs:
        cost = _costs(labelled.config.optimizer)
        for name, variant in zip(labelled.names, labelled.config.variants, strict=True):
            row: Row = {
                "name": name,
                "config": labelled.config.name,
                "changes": {**variant.knobs, **variant.recipe},
                **cost,
                "horizons": {},
            }
            for horizon in horizons:
                summary = summarize(book, tasks, name, horizon, "best")
                other = against_other(book, tasks, name, base, horizon)
                if summary is None and other is None:
                    continue
                row["horizons"][str(horizon)] = {
                    **_against_adam(summary),
                    "over_base_iqm": rounded(other["val_loss_ratio_iqm"]) if other else None,
                    "over_base_ci95": rounded(other["val_loss_ratio_ci95"]) if other else None,
                    "over_base": _rounded(other["ratios"]) if other else {},
                    **_counts(book, tasks, name, horizon),
                }
            rows.append(row)
    return rows


def _against_adam(summary: Summary | None) -> Row:
    """Figures over the tuned Adam's; None where there is none."""
    if summary is None:
        names = ("tasks", "val_loss_ratio_iqm", "val_loss_ratio_ci95", "mean_loss_ratio_iqm")
        return {**dict.fromkeys(names), "ratios": {}}
    return {
        "tasks": len(summary.tasks),
        "val_loss_ratio_iqm": rounded(summary.val_loss_ratio_iqm),
        "val_loss_ratio_ci95": rounded(summary.val_loss_ratio_ci95),
        "mean_loss_ratio_iqm": rounded(summary.mean_loss_ratio_iqm),
        "ratios": _rounded(summary.ratios),
    }


def _counts(book: Book, tasks: Sequence[str], name: str, horizon: int) -> Row:
    """Runs of a variant, and those that diverged."""
    found = [book.learned(task, name, horizon) for task in tasks]
    flags = [diverged(row, horizon) for row in found if row is not None]
    return {"runs": sum(map(len, flags)), "diverged": int(sum(flag.sum() for flag in flags))}


def _rounded(ratios: Mapping[str, float]) -> Row:
    return {task: rounded(value) for task, value in ratios.items()}


def _costs(table: dict[str, Any]) -> Row:
    """Multiply-adds and bytes a parameter and step, of the flagship's sizes; None for others."""
    unknown = {"multiply_adds": None, "bytes_moved": None, "bytes_kept": None}
    if table.get("kind", "mnemosyne") != "mnemosyne":
        return unknown
    sizes = {name: value for name, value in table.items() if name not in ("kind", "knobs")}
    found = costs(build(MnemosyneConfig, sizes))
    return {name: round(getattr(found, name), 1) for name in unknown}


def write_ablation(
    records: Sequence[Path],
    configs: Sequence[Labelled],
    tasks: Sequence[str],
    horizons: Sequence[int],
    base: str,
    path: Path,
) -> list[Row]:
    """Writes a table as JSON and Markdown, and a plot.

    Args:
        records: Files written by `evaluate`, baselines included.
        configs: Whose variants are the rows.
        tasks: Tasks that are averaged over.
        horizons: Horizons, each with columns of its own.
        base: The variant that others are divided by.
        path: Without a suffix: .json, .md and .png are written.

    Returns:
        The rows.
    """
    book = Book.load(records)
    rows = variant_rows(book, configs, tasks, horizons, base)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, allow_nan=False, indent=1, sort_keys=True)
    path.with_suffix(".json").write_text(text + "\n")
    content: list[Block] = [
        Paragraph(
            f"Held-out loss over the best Adam's and over `{base}`'s, interquartile mean over "
            f"{len(tasks)} tasks with a 95 % interval; less is better. Costs are a parameter and "
            "step, of the configured sizes: a gate leaves the arithmetic in place."
        ),
        _table(rows, horizons, base),
    ]
    run = [row for row in rows if any(_over(row, h) for h in horizons)]
    if run:
        series = {
            f"{horizon:,} steps": {row["name"]: _over(row, horizon) for row in run}
            for horizon in horizons
        }
        title = f"Held-out loss over {base}'s (less is better)"
        image = draw_intervals([row["name"] for row in run], series, title, path)
        content.append(Image(image, title))
    path.with_suffix(".md").write_text(markdown("Ablation", content, path.parent))
    return rows


def _over(row: Row, horizon: int) -> tuple[float, float, float] | None:
    """(middle, low, high) of a variant over the base."""
    found = row["horizons"].get(str(horizon))
    if found is None or found["over_base_iqm"] is None:
        return None
    return (found["over_base_iqm"], *found["over_base_ci95"])


def _table(rows: Sequence[Row], horizons: Sequence[int], base: str) -> Table:
    header = ["variant", "changes"]
    for horizon in horizons:
        header += [f"{horizon:,}: / Adam", f"{horizon:,}: / {base}", "diverged"]
    header += ["multiply-adds", "bytes moved", "bytes kept"]
    lines = []
    for row in rows:
        line = [row["name"], ", ".join(f"{k} {v:g}" for k, v in row["changes"].items())]
        for horizon in horizons:
            found = row["horizons"].get(str(horizon))
            if found is None:
                line += [_NOT_RUN] * 3
                continue
            line += [
                _cell(found["val_loss_ratio_iqm"], found["val_loss_ratio_ci95"]),
                _cell(found["over_base_iqm"], found["over_base_ci95"]),
                f"{found['diverged']} of {found['runs']}",
            ]
        line += ["" if row[k] is None else f"{row[k]:g}" for k in _COSTS]
        lines.append(line)
    return Table(header, lines)


_COSTS = ("multiply_adds", "bytes_moved", "bytes_kept")


def _cell(middle: float | None, interval: Sequence[float] | None) -> str:
    if middle is None or interval is None:
        return _NOT_RUN
    return f"{middle:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
