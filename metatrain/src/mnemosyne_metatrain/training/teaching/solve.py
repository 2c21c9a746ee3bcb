"""From the costs of pushed runs to a better last map, in double precision.

In units of the pushes' standard deviations, a run's cost is taken as

    cost(x) = cost(0) + sum_p g_p . x_p + x_p^T H_p x_p / 2,   x_p the push in phase p

with gradients g_p of each task, from antithetic pairs, and curvatures H_p that all tasks share. A
change F of the last map pushes by x = f F where the map reads f. The best one is the least of

    sum over tasks, phases p and what is read in them of  g_p . (f F) + (f F)^T H_p (f F) / 2

plus a ridge: linear equations in F.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST_CURVATURE = 0.05


class Lessons(NamedTuple):
    """What the runs of one family teach.

    Attributes:
        gradients: Of each task and phase, [T, P, 6].
        seconds: Second differences of each pair, (c(+) + c(-)) / 2 - c(0), [T, pairs].
        pushes: Of each pair, [T, pairs, P, 6].
        moments: Sums of f f^T over what is read in a phase, each task weighing 1, [P, F, F].
        reads: The mean of f in a phase for each task, [T, P, F].
    """

    gradients: Array
    seconds: Array
    pushes: Array
    moments: Array
    reads: Array


def squash(x: Array, limit: float) -> Array:
    """Bounds differences of cost smoothly: a run that is ruined does not rule the rest."""
    result: Array = limit * np.tanh(x / limit)
    return result


def learn(
    costs: Array, pushes: Array, features: Array, phases: NDArray[np.int64], limit: float
) -> Lessons:
    """Collects what runs teach.

    Args:
        costs: Of the run without a push, then of pairs (+, then -), [T, 1 + 2 pairs].
        pushes: Of the pairs' first halves, in standard deviations, [T, pairs, P, 6].
        features: What was read, [T, segments, chunks, F]; a last one of 1 is the bias.
        phases: Of the segments.
        limit: Bound of differences.
    """
    pairs = pushes.shape[1]
    plus, minus = costs[:, 1 : 1 + pairs], costs[:, 1 + pairs :]
    first = squash((plus - minus) / 2, limit)
    seconds = squash((plus + minus) / 2 - costs[:, :1], limit)
    gradients = np.einsum("tn,tnpo->tpo", first, pushes) / pairs
    count = pushes.shape[2]
    moments = np.zeros((count, features.shape[-1], features.shape[-1]))
    reads = np.zeros((len(costs), count, features.shape[-1]))
    for p in range(count):
        rows = features[:, phases == p]
        reads[:, p] = rows.mean(axis=(1, 2))
        flat = rows.reshape(-1, rows.shape[-1])
        moments[p] = flat.T @ flat * (len(costs) / len(flat))
    return Lessons(gradients, seconds, pushes, moments, reads)


def curvatures(lessons: list[Lessons]) -> Array:
    """H of each phase, [P, 6, 6], all families alike; positive definite.

    Eigenvalues below a twentieth of the largest of all phases are raised to it: where the cost
    looks flat or bent downward, a step stays small.
    """
    _, _, count, size = lessons[0].pushes.shape
    upper = np.triu_indices(size)
    rows, values = [], []
    for lesson in lessons:
        x = lesson.pushes.reshape(-1, count, size)
        products = x[:, :, upper[0]] * x[:, :, upper[1]]
        rows.append(products.reshape(len(x), -1))
        values.append(lesson.seconds.reshape(-1))
    design = np.concatenate(rows)
    design = np.concatenate([design, np.ones((len(design), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.concatenate(values), rcond=None)[0][:-1]
    result = np.zeros((count, size, size))
    for p, coefficients in enumerate(solution.reshape(count, -1)):
        result[p][upper] += coefficients
        result[p] += result[p].T
    roots, vectors = np.linalg.eigh(result)
    least = _LEAST_CURVATURE * max(float(roots.max()), 1e-6)
    raised: Array = np.einsum("pij,pj,pkj->pik", vectors, np.maximum(roots, least), vectors)
    return raised


class Equations(NamedTuple):
    """The linear equations of a change F of the last map: matrix F = right, without a ridge.

    Attributes:
        matrix: Sums over phases of moments times curvatures, [6 F, 6 F].
        right: What the gradients ask for, [F, 6].
        moments: Sums of f f^T over phases, [F, F].
        phases: Phases of a run.
        curvature: The mean of H over phases, [6, 6].
    """

    matrix: Array
    right: Array
    moments: Array
    phases: int
    curvature: Array


def equations(lessons: list[Lessons], curvature: Array) -> Equations:
    """The equations of one round's lessons.

    Args:
        lessons: Of all families; their tasks weigh alike.
        curvature: From `curvatures`.
    """
    moments = np.sum([lesson.moments for lesson in lessons], axis=0)
    right = np.zeros((moments.shape[-1], curvature.shape[-1]))
    matrix = np.zeros((right.size, right.size))
    for moment, bend in zip(moments, curvature, strict=True):
        matrix += np.kron(moment, bend)
    for lesson in lessons:
        right -= np.einsum("tpf,tpo->fo", lesson.reads, lesson.gradients)
    mean = curvature.mean(axis=0)
    return Equations(matrix, right, moments.sum(axis=0), len(curvature), mean)


def combined(earlier: Equations, moved: Array, weight: float, now: Equations) -> Equations:
    """The equations of a round and of those before it, of a change of the map as it is now.

    What an earlier round asks for is less what the map has moved since: right - matrix moved.

    Args:
        earlier: Of the rounds before, of a change of the map that they began with.
        moved: How the map has changed since, [F, 6], in push units.
        weight: What the earlier ones count, 0 to 1.
        now: Of this round.
    """
    left = earlier.right - (earlier.matrix @ moved.reshape(-1)).reshape(earlier.right.shape)
    tasks, before = now.moments[-1, -1], weight * earlier.moments[-1, -1]
    share = before / (tasks + before)
    return Equations(
        weight * earlier.matrix + now.matrix,
        weight * left + now.right,
        weight * earlier.moments + now.moments,
        now.phases,
        share * earlier.curvature + (1.0 - share) * now.curvature,
    )


def best_change(system: Equations, mask: NDArray[np.bool_], ridge: float) -> Array:
    """The change F of the last map with its biases in the last row, [F, 6], in push units.

    Args:
        system: What to solve.
        mask: Features that may carry weight, biases included.
        ridge: What is added to the moments of weights, as a number of tasks at the mean square of
            all features; biases are free.
    """
    count, outputs = system.right.shape
    kept = np.flatnonzero(mask)
    size = len(kept)
    shaped = system.matrix.reshape(count, outputs, count, outputs)
    every = np.arange(outputs)
    matrix = shaped[np.ix_(kept, every, kept, every)]
    matrix = matrix.reshape(size * outputs, size * outputs)
    total = system.moments[np.ix_(kept, kept)]
    tasks = total[-1, -1] / system.phases
    weight = np.full(size, ridge * np.trace(total) / size / tasks)
    weight[-1] = 1e-9
    matrix = matrix + np.kron(np.diag(weight), system.curvature)
    change = np.zeros((count, outputs))
    right = system.right[kept].reshape(-1)
    change[kept] = np.linalg.solve(matrix, right).reshape(size, outputs)
    return change


def predicted_gain(lessons: list[Lessons], curvature: Array, change: Array) -> float:
    """The change of cost that the quadratic promises, a mean over tasks."""
    tasks = sum(len(lesson.gradients) for lesson in lessons)
    gain = 0.0
    for p in range(len(curvature)):
        moments = sum(lesson.moments[p] for lesson in lessons)
        gain += 0.5 * float(np.sum((change.T @ moments @ change) * curvature[p]))
        for lesson in lessons:
            gain += float(np.sum((lesson.reads[:, p] @ change) * lesson.gradients[:, p]))
    return gain / tasks
