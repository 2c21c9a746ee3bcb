"""Figures of merit against examples that are worked out by hand."""

from typing import Any

import numpy as np
import pytest

from mnemosyne_metatrain.evaluation.metrics import (
    compare,
    diverged,
    ratio_of,
    speed_up,
    time_to,
)
from mnemosyne_metatrain.evaluation.records import Book, Journal, Row
from mnemosyne_metatrain.evaluation.statistics import bootstrap_interval, interquartile_mean
from mnemosyne_metatrain.evaluation.summary import against_other, summarize


def _run(losses: list[float], horizon: int, first: float = 2.0, worst: float = 2.0) -> Row:
    """Curves of as many seeds as there are losses: from `first` straight to the last loss."""
    steps = horizon // 125
    held = [[first + (last - first) * (k + 1) / steps for k in range(steps)] for last in losses]
    return {
        "horizon": horizon,
        "seeds": len(losses),
        "held_out": held,
        "mean_loss": held,
        "last_loss": held,
        "first_loss": [first] * len(losses),
        "worst_loss": [worst] * len(losses),
    }


def _learned(losses: list[float], task: str = "a", **more: Any) -> Row:
    run = _run(losses, 500, worst=more.pop("worst", 2.0))
    return {"kind": "learned", "task": task, "name": "x", "told": False, **run, **more}


def _adam(losses: list[float], horizon: int, schedule: str, task: str = "a") -> Row:
    rule = {"rule": "adam", "schedule": schedule}
    return {"kind": "baseline", "task": task, **rule, **_run(losses, horizon)}


BOOK = Book(
    [
        _learned([0.4, 0.6]),
        _adam([0.9, 1.1], 125, "constant"),
        _adam([0.7, 0.9], 250, "constant"),
        _adam([0.5, 0.5], 500, "constant"),
        _adam([0.3, 0.5], 500, "cosine"),
        _adam([0.2, 0.2], 1000, "constant"),
    ]
)


def test_one_adam_is_the_schedule_with_the_least_loss() -> None:
    best = compare(BOOK, "a", "x", 500, ("constant", "cosine"))
    constant = compare(BOOK, "a", "x", 500, ("constant",))

    assert best is not None and constant is not None
    assert best.schedule == "cosine"
    assert np.isclose(best.ratio(), 0.5 / 0.4)
    assert np.isclose(constant.ratio(), 1.0)
    assert np.isclose(constant.speed_up(), 1.0)
    # The first seed alone: 0.4 is between 0.5 at 500 and 0.2 at 1,000, a third of the way.
    assert np.isclose(constant.speed_up(np.asarray([0])), 2.0 ** (1 / 3))


def test_a_run_that_is_not_recorded_is_not_compared() -> None:
    assert compare(BOOK, "a", "y", 500, ("constant",)) is None
    assert compare(BOOK, "a", "x", 1000, ("constant",)) is None


def test_two_losses_below_a_hundredth_of_the_first_are_a_tie() -> None:
    assert ratio_of(0.019, 0.001, 2.0) == 1.0
    assert ratio_of(0.021, 0.01, 2.0) == 2.1


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(1.2, 0.25), (1.0, 0.25), (0.8, 0.5), (0.65, 0.5 * 2**0.5), (0.5, 1.0), (0.05, 4.0)],
)
def test_speed_up_interpolates_the_logarithm_of_the_horizon(goal: float, expected: float) -> None:
    known = {125: 1.0, 250: 0.8, 500: 0.5, 1000: 0.3, 2000: 0.1, 4000: 0.01}
    assert np.isclose(speed_up(goal, 500, known), expected)


def test_speed_up_is_not_told_beyond_what_was_tuned() -> None:
    assert speed_up(0.1, 500, {500: 0.5, 1000: 0.3}) == 2.0
    # A longer horizon that came out worse can still do what the shorter one did.
    assert speed_up(0.5, 500, {250: 0.5, 500: 0.6}) == 0.5


def test_a_tie_is_no_speed_up_and_no_slowing_down() -> None:
    rows = [_learned([0.01]), _adam([0.0], 125, "cosine"), _adam([0.001], 500, "cosine")]

    comparison = compare(Book(rows), "a", "x", 500, ("cosine",))

    assert comparison is not None
    assert (comparison.ratio(), comparison.speed_up()) == (1.0, 1.0)


def test_time_to_a_target_is_interpolated() -> None:
    curve = np.asarray([1.5, 1.0, 0.8])
    assert time_to(1.25, 2.0, curve) == 187.5
    assert time_to(0.5, 2.0, curve) == float("inf")


def test_time_to_a_target_reads_over_gaps() -> None:
    curve = np.array([1.8, np.nan, np.nan, 1.2])

    assert time_to(1.5, 2.0, curve) == 125 + 1.5 * 125
    assert time_to(1.5, 2.0, np.array([1.8, np.nan])) == float("inf")


def test_counts_divergences_and_spikes() -> None:
    row = _learned([0.5, 2.5], worst=4.5)
    row["last_loss"][0][-1] = None

    comparison = compare(Book([row, *BOOK.select("baseline")]), "a", "x", 500, ("constant",))

    assert comparison is not None
    assert comparison.diverged.tolist() == [1.0, 1.0]
    assert comparison.spiked.tolist() == [1.0, 1.0]


def test_a_lucky_first_batch_does_not_make_a_run_diverge() -> None:
    row = _learned([1.9, 1.9, 2.1], worst=2.2)
    row["first_loss"] = [1.8, 2.2, 1.8]
    row["start_loss"] = [2.0, 2.0, 2.0]
    assert diverged(row, 500).tolist() == [False, False, True]
    # Without what runs start from, the mean of their first batches stands in for it.
    del row["start_loss"]
    assert diverged(row, 500).tolist() == [False, False, True]


def test_interquartile_mean_leaves_the_extremes_out() -> None:
    assert interquartile_mean([1.0, 2.0, 3.0, 1e9]) == 2.5
    assert interquartile_mean([2.0, 4.0, 6.0]) == 4.0


def test_the_interval_is_the_same_every_time_and_contains_the_mean() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, (12, 3))
    figures = [lambda seeds, row=row: float(row[seeds].mean()) for row in values]

    low, high = bootstrap_interval(figures, [3] * 12, 200)

    assert low < interquartile_mean(values.mean(axis=1)) < high
    assert bootstrap_interval(figures, [3] * 12, 200) == (low, high)
    assert bootstrap_interval([lambda seeds: 2.0], [3], 10) == (2.0, 2.0)


ADAM = (1.0, 0.5, 0.25, 5.0)


def test_sums_up_over_tasks() -> None:
    rows = [_learned([0.5], task) for task in "abcd"]
    rows += [_adam([loss], 500, "cosine", task) for task, loss in zip("abcd", ADAM, strict=True)]

    summary = summarize(Book(rows), list("abcd"), "x", 500, "cosine", draws=20)

    assert summary is not None
    assert summary.ratios == {"a": 0.5, "b": 1.0, "c": 2.0, "d": 0.1}
    assert summary.val_loss_ratio_iqm == 0.75
    assert summary.runs == 4
    assert summary.speedups == {}


def test_compares_two_learned_optimizers_on_the_tasks_of_both() -> None:
    rows = [_learned([0.5], "a"), _learned([0.5], "b"), _learned([1.0], "a", name="y")]

    found = against_other(Book(rows), ["a", "b"], "x", "y", 500, draws=20)

    assert found is not None
    assert found["ratios"] == {"a": 0.5}
    assert found["val_loss_ratio_ci95"] == (0.5, 0.5)


def test_a_torn_line_of_a_journal_is_left_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "runs.jsonl"
    Journal(path).append(_learned([0.5]))
    with path.open("a") as file:
        file.write('{"kind": "lear')

    journal = Journal(path)
    journal.append(_learned([0.5], "b"))

    assert Book.load([path]).tasks() == ["a", "b"]
