"""Tuning a classic rule, on a made-up landscape of losses."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemosyne_metatrain.evaluation.grid import ADAM, FULL, Grid, RuleGrid, beyond_edge
from mnemosyne_metatrain.evaluation.rules import Point, rule_step, stack_points
from mnemosyne_metatrain.evaluation.runs import SEGMENT, Curves
from mnemosyne_metatrain.evaluation.search import (
    final_losses,
    first_stage,
    missing_horizon,
    retune,
    search,
)

GRID = Grid((RuleGrid("adam", -3.0, -1.0, 3, warmups=(0.0, 0.05), finalists=2),))


class Landscape:
    """Losses with a best rate; remembers what was run."""

    def __init__(self, best_rate: float) -> None:
        self.best_rate = best_rate
        self.calls: list[tuple[int, int, int]] = []

    def __call__(self, points: list[Point], horizon: int, seeds: int, read_all: bool) -> Curves:
        self.calls.append((len(points), horizon, seeds))
        loss = [
            abs(np.log10(p.rate / self.best_rate)) + p.warmup + 0.1 * (p.schedule == "constant")
            for p in points
        ]
        end = np.asarray(loss)[:, None] + 0.001 * np.arange(seeds)
        curve = np.full((len(points), seeds, horizon // SEGMENT), np.nan)
        curve[..., -1] = end
        return Curves(curve, curve, curve, end, end, end, end, end)  # type: ignore[arg-type]


def test_the_full_grid_has_the_points_that_were_promised() -> None:
    points = [p for schedule in FULL.schedules for p in ADAM.points(schedule)]
    assert len(points) == 14 * 2 * 2 * 2 * 3
    assert np.isclose(max(p.rate for p in points) / min(p.rate for p in points), 1e4)
    assert {g.rule for g in FULL.rules} == {"adam", "sgd", "lion"}


def test_finds_the_best_point_in_two_stages() -> None:
    run = Landscape(1e-2)

    rows = search(GRID, 500, 5, run)

    assert run.calls == [(12, 500, 1), (4, 500, 5)]
    assert [(row["schedule"], row["point"]["rate"]) for row in rows] == [
        ("constant", 1e-2),
        ("cosine", 1e-2),
    ]
    assert all(row["point"]["warmup"] == 0.0 for row in rows)
    assert rows[0]["tried"] == 12
    assert len(rows[0]["finalists"]) == 2


def test_grows_while_the_best_is_at_an_edge() -> None:
    points, curves = first_stage(GRID, 500, Landscape(1e-5))

    assert np.isclose(min(p.rate for p in points), 1e-7)
    assert curves.held_out.shape == (len(points), 1, 4)
    scores = dict(zip(points, final_losses(curves, 500)[:, 0], strict=True))
    assert beyond_edge(scores, "adam", "cosine", 10.0, 2) == []


def test_one_seed_needs_no_second_stage() -> None:
    run = Landscape(1e-2)

    rows = search(GRID, 500, 1, run)

    assert run.calls == [(12, 500, 1)]
    assert {row["point"]["rate"] for row in rows} == {1e-2}


def test_a_point_that_broke_is_never_the_best() -> None:
    def run(points: list[Point], horizon: int, seeds: int, read_all: bool) -> Curves:
        curves = Landscape(1e-2)(points, horizon, seeds, read_all)
        curves.held_out[[p.rate > 5e-3 for p in points]] = np.nan  # type: ignore[index]
        return curves

    rows = search(GRID, 500, 2, run)

    assert {row["point"]["rate"] for row in rows} == {1e-3}


def test_tunes_again_around_the_tuned_rate() -> None:
    run = Landscape(1e-4)

    (row,) = retune(GRID, [Point("adam", "cosine", 1e-2, 0.05)], 250, 3, run)

    assert np.isclose(row["point"]["rate"], 1e-4)
    assert row["point"]["warmup"] == 0.05
    assert run.calls[0] == (3, 250, 3)


def test_asks_for_longer_horizons_until_one_reaches_our_loss() -> None:
    assert missing_horizon(0.5, 500, {500: 1.0}) == 1000
    assert missing_horizon(0.5, 500, {500: 1.0, 1000: 0.6}) == 2000
    assert missing_horizon(0.5, 500, {500: 1.0, 1000: 0.4}) is None
    assert missing_horizon(0.5, 500, {500: 1.0, 1000: 0.6, 2000: 0.55}) is None


def test_asks_for_shorter_horizons_until_one_misses_our_loss() -> None:
    assert missing_horizon(0.5, 500, {500: 0.5}) == 250
    assert missing_horizon(0.5, 500, {500: 0.5, 250: 0.6}) is None
    assert missing_horizon(0.5, 500, {500: 0.3, 250: 0.4}) == 125


def _follow(point: Point, steps: int) -> np.ndarray:
    arrays = stack_points([point], steps)
    scalars = type(arrays)(*(value[0] for value in arrays))
    flat = jnp.asarray([1.0, -2.0, 0.5])
    state = (jnp.zeros(3), jnp.zeros(3))
    for step in range(steps):
        state, flat = rule_step(scalars, state, flat, flat**3 + 0.1, jnp.asarray(step))
    return np.asarray(flat)


@pytest.mark.parametrize(
    ("point", "reference"),
    [
        (Point("adam", "constant", 0.1, decay=0.01), optax.adamw(0.1, weight_decay=0.01)),
        (Point("sgd", "constant", 0.05), optax.sgd(0.05, momentum=0.9)),
        (
            Point("lion", "cosine", 0.05, decay=0.1, clip=1.0),
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.lion(optax.cosine_decay_schedule(0.05, 7), weight_decay=0.1),
            ),
        ),
    ],
)
def test_rules_are_those_of_optax(point: Point, reference: optax.GradientTransformation) -> None:
    flat = jnp.asarray([1.0, -2.0, 0.5])
    state = reference.init(flat)
    for _ in range(7):
        update, state = reference.update(flat**3 + 0.1, state, flat)
        flat = flat + update
    np.testing.assert_allclose(_follow(point, 7), flat, rtol=1e-4, atol=1e-6)
