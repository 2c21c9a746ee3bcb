"""Estimators of the meta-gradient, as functions over an abstract inner problem.

All take one task's window and return an `Estimate`; a caller maps them over tasks with `jax.vmap`.
"""

from mnemosyne_metatrain.estimators.pes import PesState, init_pes, pes_gradient, reset_pes
from mnemosyne_metatrain.estimators.problem import (
    Estimate,
    InnerProblem,
    problem_from_rule,
    problem_from_steps,
)
from mnemosyne_metatrain.estimators.truncated import first_order_gradient, truncated_gradient
from mnemosyne_metatrain.estimators.ufom import (
    UfomAverages,
    UfomSquares,
    adaptive_probability,
    draw_correction,
    init_averages,
    ufom_gradient,
    update_averages,
)

__all__ = [
    "Estimate",
    "InnerProblem",
    "PesState",
    "UfomAverages",
    "UfomSquares",
    "adaptive_probability",
    "draw_correction",
    "first_order_gradient",
    "init_averages",
    "init_pes",
    "pes_gradient",
    "problem_from_rule",
    "problem_from_steps",
    "reset_pes",
    "truncated_gradient",
    "ufom_gradient",
    "update_averages",
]
