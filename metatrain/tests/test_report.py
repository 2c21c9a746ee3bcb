"""Documents and plots from made-up records."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnemosyne_metatrain.cli import main
from mnemosyne_metatrain.evaluation.metrics import spiked
from mnemosyne_metatrain.evaluation.records import Book, Row
from mnemosyne_metatrain.evaluation.restore import restored
from mnemosyne_metatrain.golden import write_test_weights
from mnemosyne_metatrain.report.blocks import Heading, Image, Paragraph, Table, markdown, page
from mnemosyne_metatrain.report.program import write_report
from mnemosyne_metatrain.report.results import thinned


def _run(kind: str, last: float, horizon: int, **more: Any) -> Row:
    steps = horizon // 125
    held = [[2.0 + (last + s - 2.0) * (k + 1) / steps for k in range(steps)] for s in (0, 0.01)]
    curves = {"held_out": held, "mean_loss": held, "last_loss": held}
    firsts = {"first_loss": [2.0, 2.0], "worst_loss": [2.5, 4.5]}
    facts = {"seeds": 2, "parameters": 100, "horizon": horizon}
    return {"kind": kind, **facts, **curves, **firsts, **more}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    rows = [_run("learned", 0.6, 500, task="conv_noisy_transposed", name="x", told=False)]
    for task, ours in (("conv_noisy", 0.5), ("gpt", 1.0)):
        for name, loss in (("x", ours), ("y", 2 * ours)):
            rows.append(_run("learned", loss, 500, task=task, name=name, told=False))
        for horizon, loss in ((250, 1.0), (500, 0.5), (1000, 0.25)):
            rule = {"rule": "adam", "schedule": "cosine"}
            point = {**rule, "rate": 0.01, "warmup": 0.05, "clip": 0.0, "decay": 0.1}
            facts = {"task": task, "point": point, "tried": 336, "stage": 2, **rule}
            rows.append(_run("baseline", loss, horizon, **facts))
        for guard, count in ((True, 0), (False, 3)):
            count_row = {"kind": "count", "task": task, "name": "x", "guard": guard, "runs": 10}
            count_row["start_loss"] = [2.0] * 10
            count_row |= {"trips": [1.0, 0.0] * 5 if guard else [0.0] * 10, "capped": [0.5] * 10}
            rows.append({**count_row, "diverged": count, "spiked": 0})
        fresh = {"kind": "fresh", "task": task, "name": "x", "horizon": 500, "seeds": 2}
        fresh |= {"first_loss": [2.0, 2.0], "held_out": [0.6, 0.6]}
        rows.append({**fresh, "adam": {"cosine": [0.4, 0.8], "constant": [0.1, 0.1]}})
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_writes_the_headline_that_was_promised(records: Path, tmp_path: Path) -> None:
    facts = {"meta_training_minutes": 12.0, "note": "Made up."}

    data = write_report([records], ["x", "y"], [500], facts, tmp_path / "docs")

    head = json.loads((tmp_path / "docs" / "results.json").read_text())["headline"]
    assert head == json.loads(json.dumps(data["headline"]))
    assert abs(head["val_loss_ratio_iqm"] - (1.0 + 1.005 / 0.505) / 2) < 1e-4
    assert head["divergences_guard_on"] == 0
    assert head["divergences_guard_off"] == 6
    assert head["guard_trips_a_run"] == 0.5
    assert head["meta_training_minutes"] == 12.0
    assert head["spiked_runs"] == 2
    assert head["speedup_ci95"][0] <= head["speedup_iqm"] <= head["speedup_ci95"][1]
    (change,) = data["transposed"]
    assert abs(change["ratio"] - 0.605 / 0.505) < 1e-9


def test_writes_documents_and_plots(records: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"

    write_report([records], [], [500], {}, docs)

    text = (docs / "results.md").read_text()
    assert "| conv_noisy | 100 | not run | 0.5050 (0.0050) | not run | not run |" in text
    assert "![Speed-up over the tuned Adam](results/speedup.png)" in text
    assert "| gpt | x | on | 0 of 10 | 0 of 10 | 0.5 | 0.5 |" in text
    assert "| x | 500 | best Adam | 2 | 2 | 1.000 (0.750 to 1.500) |" in text
    assert "| gpt | 0.6000 (0.0000) | 0.6000 (0.2000) | 1.000 |" in text
    for name in ("curves", "speedup", "ratio"):
        assert (docs / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    html = (docs / "results.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html


def test_a_speed_up_needs_an_adam_that_was_tuned_again(records: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    kept = [row for row in rows if row["kind"] != "baseline" or row["horizon"] == 500]
    extra = [dict(row, horizon=125) for row in kept if row["kind"] == "baseline"]
    records.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *extra]))

    data = write_report([records], ["x"], [500], {}, tmp_path / "docs")

    assert data["headline"]["speedup_iqm"] is None
    assert "| gpt | 1.990 |" in (tmp_path / "docs" / "results.md").read_text()


def test_a_document_is_the_same_in_both_forms(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    blocks = [Heading("A & B"), Paragraph("See `x`."), Table(["a", "b"], [["1", "<2>"]])]

    text = markdown("Title", [*blocks, Image(picture, "Plot")], tmp_path)
    html = page("Title", [*blocks, Image(picture, "Plot")])

    assert "## A & B" in text and "| 1 | <2> |" in text and "![Plot](a.png)" in text
    assert "<h2>A &amp; B</h2>" in html and "<td>&lt;2&gt;</td>" in html
    assert "<code>x</code>" in html


def test_thinned_curves_keep_their_end() -> None:
    curve = list(range(100))
    assert len(thinned(curve)) == 16
    assert thinned(curve)[-1] == [100, 99]
    assert thinned([5.0]) == [[1, 5.0]]


def test_what_a_report_keeps_gives_the_same_report_again(records: Path, tmp_path: Path) -> None:
    before = write_report([records], ["x", "y"], [250, 500], {}, tmp_path / "docs")
    results = tmp_path / "docs" / "results.json"
    runs, baselines = tmp_path / "runs.jsonl", tmp_path / "baselines.jsonl"

    main(["restore", str(results), "--out", str(runs), "--baselines", str(baselines)])
    again = write_report([runs, baselines], ["x", "y"], [250, 500], {}, tmp_path / "again")

    parts = ("figures", "against_others", "best_on_each", "transposed", "learned_runs")
    for part in (*parts, "fresh_seeds"):
        assert again[part] == before[part]
    for name in ("results.md", "results/curves.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "docs" / name).read_bytes()
    searched = [json.loads(line) for line in baselines.read_text().splitlines()]
    assert sum(row["kind"] == "searched" for row in searched) == 6


def test_an_earlier_report_is_read_at_the_ends_of_its_runs(tmp_path: Path) -> None:
    run = {"task": "poisson", "name": "x", "told": False, "horizon": 500, "seeds": 2, "spiked": 1}
    run |= {"held_out": [0.5, 0.7], "mean_train": [1.0, 1.2], "last_train": [0.4, 0.6]}
    run |= {"first_train": [2.0, 3.0], "curve_of_125_steps": [[1, 1.5], [2, 1.0], [4, 0.6]]}
    results = {"learned_runs": [run], "baseline_runs": [], "divergence_counts": []}

    results["divergence_counts"] = [{"runs": 13, "diverged": 5}, {"runs": 13, "diverged": 0}]
    (row, count), baselines = restored(results)

    assert count == {"runs": 13, "diverged": 0}

    assert baselines == []
    assert row["held_out"] == [[1.5, 1.0, None, 0.5], [1.5, 1.0, None, 0.7]]
    assert row["mean_loss"][1] == [None, None, None, 1.2]
    assert spiked(row).tolist() == [True, False]
    assert row["parameters"] == 1153
    book = Book([row])
    assert book.learned("poisson", "x", 500) is row
    assert book.learned("poisson", "x", 250) is None


def test_an_ablation_of_exported_weights_needs_no_adam(tmp_path: Path) -> None:
    weights = str(write_test_weights("mnemosyne", tmp_path))
    rows = [
        _run("learned", loss, 500, task=task, name=name, told=False)
        for task in ("s_conv", "s_gpt")
        for name, loss in (("whole", 0.5), ("no_memory", 0.75))
    ]
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))

    configs = ["--configs", f"whole={weights}", f"no_memory={weights}@slow_weight=0"]
    out = ["--horizons", "500", "--tasks", "second", "--out", str(tmp_path / "parts")]
    main(["ablate", str(records), *configs, *out])

    whole, less = json.loads((tmp_path / "parts.json").read_text())
    assert whole["horizons"]["500"]["val_loss_ratio_iqm"] is None
    assert abs(less["horizons"]["500"]["over_base_iqm"] - 0.755 / 0.505) < 1e-4
    assert less["changes"] == {"slow_weight": 0.0}
    assert "| no_memory | slow_weight 0 | not run |" in (tmp_path / "parts.md").read_text()


def test_an_ablation_lists_what_was_not_run(tmp_path: Path) -> None:
    config = tmp_path / "parts.toml"
    config.write_text(
        'name = "parts"\n[[variants]]\nname = "base"\n[[variants]]\nname = "less"\n'
        'knobs = { gate_cam = 0.0 }\n[[variants]]\nname = "later"\n'
    )
    rows = []
    for task, adam in (("v_mlp", 0.5), ("v_gpt", 0.25)):
        for name, loss in (("base", 0.5), ("less", 0.75)):
            rows.append(_run("learned", loss, 500, task=task, name=name, told=False))
        rule = {"rule": "adam", "schedule": "constant"}
        rows.append(_run("baseline", adam, 500, task=task, **rule))
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))

    out = str(tmp_path / "out" / "ablation")
    arguments = ["--configs", str(config), "--horizons", "500", "--out", out]
    main(["ablate", str(records), *arguments])

    base, less, later = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert base["horizons"]["500"]["over_base_iqm"] == 1.0
    assert abs(less["horizons"]["500"]["over_base_iqm"] - 0.755 / 0.505) < 1e-4
    assert less["changes"] == {"gate_cam": 0.0}
    assert later["horizons"] == {} and later["multiply_adds"] > 0
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "| later |  | not run | not run | not run |" in text
    assert (tmp_path / "out" / "ablation.png").exists()
