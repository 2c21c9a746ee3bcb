"""The suite's code path on two tiny tasks, and the figures of merit on made-up records."""

import jax
import numpy as np

from mnemosyne_metatrain.evaluation.grid import Grid
from mnemosyne_metatrain.evaluation.judge import Candidate, Judge, Plan
from mnemosyne_metatrain.evaluation.metrics import (
    bootstrap_interval,
    interquartile_mean,
    loss_ratio,
    speed_up,
)
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.suite import TEST, VALIDATION


def test_suite_judges_two_tasks() -> None:
    optimizer = Mnemosyne()
    theta = jax.tree.map(lambda x: x[None], optimizer.init_theta(jax.random.key(0)))
    plan = Plan(
        horizons=(125,),
        seeds=2,
        grid=Grid(low=-3, high=-1, num_rates=3, warmups=(0.0,), decays=(0.0,)),
        told=(),
    )
    candidates = [Candidate(optimizer, ("mnemosyne",), theta)]
    tasks = [VALIDATION["v_mlp"], TEST["poisson"]]
    records = Judge(tasks, candidates, plan).run(candidates)
    assert [r["task"] for r in records] == ["v_mlp", "poisson"]
    for record in records:
        found = loss_ratio(record, "mnemosyne", 125, ("constant", "cosine"))
        assert found is not None
        assert np.isfinite(found["ratio"]).all()
        assert not found["diverged"].any()
        speed = speed_up(record, "mnemosyne", 125, ("constant",))
        assert speed is not None and speed > 0


def test_interquartile_mean_leaves_the_extremes_out() -> None:
    assert interquartile_mean(np.asarray([1.0, 2.0, 3.0, 1e9])) == 2.5


def test_bootstrap_interval_contains_the_mean() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, (12, 3))
    low, high = bootstrap_interval(values)
    assert low < interquartile_mean(values.mean(axis=1)) < high


def _record(ours: float, adam: dict[int, float]) -> dict:
    def curve(value: float, horizon: int) -> list[list[float]]:
        return [[value] * (horizon // 125)]

    def row(value: float, horizon: int) -> dict:
        names = ("held_out", "mean_loss", "last_loss")
        curves = {name: curve(value, horizon) for name in names}
        return {"horizon": horizon, "first_loss": [2.0], "worst_loss": [2.0], **curves}

    return {
        "task": "made up",
        "adam": [{"schedule": "constant", "point": {}, **row(v, h)} for h, v in adam.items()],
        "learned": [{"name": "x", "told": False, **row(ours, 500)}],
    }


def test_speed_up_is_the_horizon_at_which_adam_catches_up() -> None:
    record = _record(0.5, {125: 1.0, 250: 0.8, 500: 0.5, 1000: 0.3, 2000: 0.2})
    assert np.isclose(speed_up(record, "x", 500, ("constant",)), 1.0)
    record = _record(0.1, {125: 1.0, 500: 0.5, 2000: 0.2})
    assert speed_up(record, "x", 500, ("constant",)) == 4.0


def test_tiny_losses_are_ties() -> None:
    found = loss_ratio(_record(0.004, {500: 0.001}), "x", 500, ("constant",))
    assert found is not None and float(found["ratio"][0]) == 1.0
