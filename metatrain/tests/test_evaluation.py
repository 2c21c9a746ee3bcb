"""The suite's code path on two tiny tasks, in legs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mnemosyne_metatrain.cli import main
from mnemosyne_metatrain.evaluation import fingerprint
from mnemosyne_metatrain.evaluation.fingerprint import task_fingerprint
from mnemosyne_metatrain.evaluation.fresh import fresh_summary
from mnemosyne_metatrain.evaluation.grid import Grid, RuleGrid
from mnemosyne_metatrain.evaluation.judge import Plan
from mnemosyne_metatrain.evaluation.program import Evaluation, Leg
from mnemosyne_metatrain.evaluation.programs import seed_keys
from mnemosyne_metatrain.evaluation.records import Book
from mnemosyne_metatrain.evaluation.summary import summarize
from mnemosyne_metatrain.evaluation.weights import load_candidates, parse_source
from mnemosyne_metatrain.export import export
from mnemosyne_metatrain.optimizers.lstm import Lstm, LstmConfig
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.suite import images

TASKS = ("poisson", "elevation")
GRID = Grid((RuleGrid("adam", -3, -2, 2), RuleGrid("sgd", -3, -2, 2)), extensions=1)
PLAN = Plan(horizons=(125,), seeds=2, grid=GRID)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    optimizer = Lstm(LstmConfig(hidden=4), "lstm")
    folder = tmp_path_factory.mktemp("weights")
    theta = optimizer.init_theta(jax.random.key(0))
    return str(export(optimizer, theta, folder, "0.0.1", {}))


def test_judges_in_legs_and_runs_nothing_twice(tmp_path: Path, weights: str) -> None:
    out, baselines = tmp_path / "runs.jsonl", tmp_path / "baselines.jsonl"
    sources = [parse_source(weights)]

    first = Evaluation(Leg(PLAN, TASKS[:1], out, baselines), sources).run()
    lines = out.read_text(), baselines.read_text()
    second = Evaluation(Leg(PLAN, TASKS, out, baselines), sources).run()

    assert first and second
    assert out.read_text().startswith(lines[0])
    assert baselines.read_text().startswith(lines[1])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["task"] for row in rows] == list(TASKS)
    book = Book.load([out, baselines])
    summary = summarize(book, TASKS, "lstm", 125, draws=20)
    assert summary is not None
    assert summary.tasks == list(TASKS)
    assert summary.runs == 2 * PLAN.seeds
    assert all(0.25 <= value <= 4.0 for value in summary.speedups.values())
    assert len(book.select("baseline", rule="sgd", stage=2)) == 2 * len(TASKS)


def test_runs_recorded_baselines_again_as_a_check(tmp_path: Path) -> None:
    out, baselines = tmp_path / "runs.jsonl", tmp_path / "baselines.jsonl"

    for share in (0.0, 1.0):
        Evaluation(Leg(PLAN, ("poisson",), out, baselines, check=share), []).run()

    checks = Book.load([baselines]).select("check")
    assert {(row["rule"], row["schedule"]) for row in checks} == {
        (rule, schedule) for rule in ("adam", "sgd") for schedule in ("constant", "cosine")
    }
    assert all(row["recorded"] == pytest.approx(row["again"], rel=1e-4) for row in checks)


def test_a_leg_without_time_records_nothing(tmp_path: Path, weights: str) -> None:
    out, baselines = tmp_path / "runs.jsonl", tmp_path / "baselines.jsonl"
    leg = Leg(PLAN, TASKS, out, baselines, minutes=0.0)

    assert not Evaluation(leg, [parse_source(weights)]).run()
    assert not out.exists()


def test_weights_of_one_architecture_share_a_program(tmp_path: Path) -> None:
    optimizer = Mnemosyne()
    weights = export(optimizer, optimizer.init_theta(jax.random.key(0)), tmp_path, "0.0.1", {})
    sources = [parse_source(f"a={weights}"), parse_source(f"b={weights}@smoothing=0.4")]

    (candidate,) = load_candidates(sources)

    assert candidate.names == ("a", "b")
    assert candidate.digest(0) != candidate.digest(1)
    with pytest.raises(ValueError, match="no such knobs"):
        parse_source(f"{weights}@nothing=1").candidate()


def test_a_size_that_no_array_depends_on_can_be_replaced(tmp_path: Path) -> None:
    optimizer = Mnemosyne()
    weights = export(optimizer, optimizer.init_theta(jax.random.key(0)), tmp_path, "0.0.1", {})

    changed = parse_source(f"{weights}@same_step_context=1,smoothing=0.4").candidate()

    assert isinstance(changed.optimizer, Mnemosyne)
    assert changed.optimizer.config.same_step_context is True
    assert float(changed.thetas.fixed["knobs"]["smoothing"][0]) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="depend on token_width"):
        parse_source(f"{weights}@token_width=8").candidate()


def test_a_fingerprint_follows_what_a_task_runs() -> None:
    def of(noise: float, grid: Grid = GRID, seeds: int = 2) -> str:
        return task_fingerprint(images.mlp("x", (8,), images.digits, noise), grid, seeds)

    assert of(0.1) == of(0.1)
    assert (
        len({of(0.1), of(0.2), of(0.1, seeds=3), of(0.1, Grid((RuleGrid("adam", -3, -1),)))}) == 4
    )


def test_what_a_fingerprint_is_made_of_has_no_comments_or_docstrings() -> None:
    source = fingerprint._source(fingerprint._names)

    assert source == (
        "def _names(code: CodeType) -> set[str]: names = set(code.co_names) "
        "for constant in code.co_consts: if isinstance(constant, CodeType): "
        "names |= _names(constant) return names"
    )


def test_fresh_seeds_come_after_those_that_points_were_chosen_on(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, baselines = tmp_path / "fresh.jsonl", tmp_path / "baselines.jsonl"
    adam = {"rule": "adam", "rate": 1e-3, "warmup": 0.0, "clip": 0.0, "decay": 0.0}
    rows = [
        {
            "kind": "baseline", "task": "poisson", "horizon": 125, "seeds": 2, "stage": 2,
            "point": {**adam, "schedule": schedule}, "rule": "adam", "schedule": schedule,
            "held_out": [[end], [end]],
        }
        for schedule, end in (("constant", 1.0), ("cosine", 2.0))
    ]  # fmt: skip
    baselines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", f"x={weights}", "--tasks", "poisson", "--horizons", "125"]
    known = ["--baselines", str(baselines), "--fresh-seeds", "2"]

    for _ in range(2):
        main([*command, *known, "--out", str(out)])

    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert (row["first_seed"], row["seeds"]) == (2, 2)
    assert len(set(row["held_out"])) == len(set(row["adam"]["constant"])) == 2
    book = Book.load([out, baselines])
    with pytest.raises(SystemExit):
        main([*command, *known, "--tasks", "elevation", "--out", str(out)])
    assert "no tuned Adam of elevation at 125 steps" in capsys.readouterr().err
    summary = fresh_summary(book, TASKS, "x", 125, "best", draws=20)
    assert summary is not None
    constant = np.mean(row["held_out"]) / np.mean(row["adam"]["constant"])
    assert summary["ratios"] == {"poisson": pytest.approx(constant)}


def test_seeds_after_the_first_are_those_of_a_longer_list() -> None:
    later, all_of_them = (jax.random.key_data(seed_keys(*a)) for a in ((2, 3), (5,)))
    np.testing.assert_array_equal(later, all_of_them[3:])


def test_counts_divergences_with_the_guard_on_and_off(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "counts.jsonl"
    pair = [f"on={weights}", f"off={weights}", "--tasks", "poisson", "--horizons", "125"]

    for _ in range(2):
        main(["evaluate", *pair, "--count-divergences", "3", "--out", str(out)])

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["guard"], row["runs"]) for row in rows] == [(True, 3), (False, 3)]
    with pytest.raises(SystemExit):
        main(["evaluate", weights, "--count-divergences", "3", "--out", str(out)])
    assert "gate_guard" in capsys.readouterr().err
