"""Searches directions and priors by whole runs: the flagship's rule without a decoder.

Every tensor keeps Adam's two moments and the slow memory r2 of `memory.py`. What is searched are
numbers, so that hundreds of settings share a program a task:

- priors: step size, its width and age exponents, weights of the memories, kappa, decay;
- shapes: what a coordinate's direction is bent by (Wiener shrinkage, powers, agreement of the two
  memories, gains of rows and columns, a cautious mask);
- whitening: rows and columns of a matrix are mixed by a power of the inverse of their running
  second moments, in blocks, as Shampoo and SOAP do (arXiv 1802.09568, 2409.11321);
- other directions: Muon's (orthogonal), Adafactor's and AdaBelief's second moments;
- Adam with a cosine, to compare with.

    python scripts/search_directions.py whitening --tasks second --out whitening.jsonl

A GPU is wanted: a set is hundreds of runs of 2,000 steps. Compilation takes longer than they do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.evaluation.commands import task_names
from mnemosyne_metatrain.evaluation.programs import seed_keys
from mnemosyne_metatrain.evaluation.statistics import interquartile_mean
from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.suite import BIG, CHECK, TEST, every_task
from mnemosyne_metatrain.suite.task import SuiteTask

_LARGEST_GROUP = 64
_ROOT_STEPS = 16
_FRESH_EVERY = 10
_TINY = 1e-30
# Variance of r1 / root(s) for gradients of pure noise: (1 - 0.9) / (1 + 0.9).
_FAST_NOISE = 0.0526
# The age at which exponents of age change nothing.
_MIDDLE_AGE = 200.0


@dataclass(frozen=True)
class Setting:
    """One point of the search; the defaults are the priors of the flagship.

    Attributes:
        step: Factor of all step sizes; Adam's rate.
        vector_step: Factor of the step sizes of all tensors but matrices.
        width_power: Step sizes of matrices fall with fan-in to this power.
        fan_out_power: Step sizes of matrices rise with fan-out to this power.
        step_power: Step sizes fall with age to this power.
        sharp: w0.
        fast: w1.
        slow: w2.
        fast_power: w0 and w1 fall with age to this power.
        kappa: How fast the keys of r2 grow, plus 1.
        decay: Weight decay of matrices, as a share of their step.
        decay_power: Decay rises with age to this power.
        square_grows: Whether s has growing memory, too.
        belief: s is of what the gradient differs from this share of r1 (AdaBelief's is 1).
        factored: s is Adafactor's, of rows and columns, to this power, and its own to the rest.
        orthogonal: If above 0, the direction of a matrix is this much of r1 made orthogonal, as
            Muon's is, times the root of its longer side.
        shrink_slow: c of r2 q / (q + c), q being r2^2 over the variance of averaged noise; 0 is
            off.
        shrink_fast: The same of r1.
        power_slow: r2 is raised to this power, over its rms.
        power_fast: The same of r1.
        agreement: r2 counts 1 + agreement tanh(r1 r2), each over its rms.
        row_signal: Rows are scaled by their mean of r1^2 / s, over the tensor's, to this power.
        column_signal: The same of columns.
        row_size: Rows are scaled by their mean of s, over the tensor's, to this power.
        column_size: The same of columns.
        caution: Share that is taken off a coordinate whose update opposes its gradient.
        rows: Whether rows (the inputs of a matrix) are whitened.
        columns: Whether columns are.
        block: Rows or columns that are whitened together; at most 64.
        power: Of the inverse second moments: 0.25 or 0.5.
        before: Whether directions are whitened before they are written to r2, or when it is read.
        moments_decay: Discount of the second moments of rows and columns.
        ridge: Added to those, over their mean.
        adam: Whether this is Adam with a cosine instead.
        horizon: Of that cosine.
    """

    step: float = 1.0
    vector_step: float = 1.0
    width_power: float = 0.5
    fan_out_power: float = 0.0
    step_power: float = 0.0
    sharp: float = 0.02
    fast: float = 0.09
    slow: float = 0.5
    fast_power: float = 0.25
    kappa: float = 2.3
    decay: float = 0.08
    decay_power: float = 0.0
    square_grows: bool = False
    belief: float = 0.0
    factored: float = 0.0
    orthogonal: float = 0.0
    shrink_slow: float = 0.0
    shrink_fast: float = 0.0
    power_slow: float = 1.0
    power_fast: float = 1.0
    agreement: float = 0.0
    row_signal: float = 0.0
    column_signal: float = 0.0
    row_size: float = 0.0
    column_size: float = 0.0
    caution: float = 0.0
    rows: bool = False
    columns: bool = False
    block: float = 64.0
    power: float = 0.25
    before: bool = False
    moments_decay: float = 0.95
    ridge: float = 0.1
    adam: bool = False
    horizon: float = 2000.0


class Slot(NamedTuple):
    """What a tensor keeps: r1, s and r2, and of a matrix the moments and roots of both axes."""

    fast: jax.Array
    square: jax.Array
    slow: jax.Array
    moments: tuple[jax.Array, ...]
    roots: tuple[jax.Array, ...]


class Clock(NamedTuple):
    """Age after this step, and the masses of r1, s and the second moments."""

    age: jax.Array
    fast: jax.Array
    square: jax.Array
    moments: jax.Array


def _matrix(spec: ParameterSpec) -> tuple[int, int] | None:
    """Rows and columns of a tensor, the inputs of a convolution in its rows."""
    if len(spec.shape) < 2:
        return None
    return int(np.prod(spec.shape[:-1])), spec.shape[-1]


def _groups(matrix: jax.Array) -> jax.Array:
    """Rows [n, c] in groups of at most 64, [g, G, c], padded with zeros."""
    size = min(matrix.shape[0], _LARGEST_GROUP)
    count = -(-matrix.shape[0] // size)
    padding = count * size - matrix.shape[0]
    return jnp.pad(matrix, ((0, padding), (0, 0))).reshape(count, size, matrix.shape[1])


def _empty(spec: ParameterSpec) -> Slot:
    zeros = jnp.zeros(spec.shape)
    matrix = _matrix(spec)
    if matrix is None:
        return Slot(zeros, zeros, zeros, (), ())
    shapes = [_groups(jnp.zeros((n, 1))).shape[:2] for n in matrix]
    moments = tuple(jnp.zeros((g, n, n)) for g, n in shapes)
    roots = tuple(jnp.broadcast_to(jnp.eye(n), (g, n, n)) for g, n in shapes)
    return Slot(zeros, zeros, zeros, moments, roots)


def _square_roots(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A^(1/2) and A^(-1/2) of positive matrices, by coupled Newton-Schulz steps."""
    eye = jnp.eye(a.shape[-1])
    scale = jnp.sqrt(jnp.sum(a * a, axis=(-1, -2), keepdims=True)) + _TINY

    def step(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, z = pair
        t = 1.5 * eye - 0.5 * (z @ y)
        return y @ t, t @ z

    y, z = jax.lax.fori_loop(0, _ROOT_STEPS, step, (a / scale, jnp.broadcast_to(eye, a.shape)))
    return y * jnp.sqrt(scale), z / jnp.sqrt(scale)


def _whitener(k: Any, moments: jax.Array) -> jax.Array:
    """Second moments [g, n, n] to the power -`power`, which leaves the mean square as it is."""
    place = jnp.floor(jnp.arange(moments.shape[-1]) / k.block)
    same = (place[:, None] == place[None]).astype(jnp.float32)
    diagonal = jnp.diagonal(moments, axis1=-2, axis2=-1)
    mean = jnp.mean(diagonal, axis=-1)[..., None, None] + _TINY
    a = moments * same / mean + k.ridge * jnp.eye(moments.shape[-1])
    root, half = _square_roots(a)
    quarter = _square_roots(root)[1]
    p = jnp.where(k.power > 0.4, half, quarter)
    left = jnp.mean(jnp.diagonal(p @ (moments / mean) @ p, axis1=-2, axis2=-1), axis=-1)
    return p / jnp.sqrt(left + _TINY)[..., None, None]


def _orthogonal(matrix: jax.Array) -> jax.Array:
    """U V^T of a matrix, nearly: five quintic steps (Muon's), times the root of its longer side."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (jnp.linalg.norm(x) + _TINY)

    def step(_: int, x: jax.Array) -> jax.Array:
        square = x @ x.T
        return 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x

    found: jax.Array = np.sqrt(max(matrix.shape)) * jax.lax.fori_loop(0, 5, step, x)
    return found.T if is_tall else found


def _factored_root(square: jax.Array, matrix: tuple[int, int]) -> jax.Array:
    """The root of Adafactor's estimate of s from its rows and columns."""
    s = square.reshape(matrix)
    rows, columns = jnp.mean(s, 1, keepdims=True), jnp.mean(s, 0, keepdims=True)
    return jnp.sqrt(rows * columns / (jnp.mean(s) + _TINY)).reshape(square.shape)


def _mixed(root: jax.Array, matrix: jax.Array) -> jax.Array:
    """Rows of a matrix mixed in their groups."""
    mixed = jnp.einsum("gij,gjc->gic", root, _groups(matrix))
    return mixed.reshape(-1, matrix.shape[1])[: matrix.shape[0]]


def _whitened(k: Any, roots: tuple[jax.Array, ...], matrix: jax.Array) -> jax.Array:
    matrix = jnp.where(k.rows > 0, _mixed(roots[0], matrix), matrix)
    return jnp.where(k.columns > 0, _mixed(roots[1], matrix.T).T, matrix)


def _bent(k: Any, value: jax.Array, noise: jax.Array, shrink: jax.Array, power: Any) -> jax.Array:
    """A memory's direction, shrunk where it is no more than noise, and raised to a power."""
    signal = value * value / noise
    bent = jnp.where(shrink > 0, value * signal / (signal + shrink + _TINY), value)
    rms = jnp.sqrt(jnp.mean(value * value)) + _TINY
    return bent * jnp.clip((jnp.abs(value) / rms + 1e-6) ** (power - 1.0), 0.1, 5.0)


def _gain(values: jax.Array, axis: int, power: jax.Array) -> jax.Array:
    mean = jnp.mean(values, axis, keepdims=True)
    return jnp.clip(mean / (jnp.mean(mean) + _TINY), 0.05, 20.0) ** power


def _step_size(k: Any, spec: ParameterSpec, age: jax.Array) -> jax.Array:
    if spec.fan_in > 1:
        prior = 0.029 * (64.0 / spec.fan_in) ** k.width_power
        prior = prior * (spec.fan_out / 32.0) ** k.fan_out_power
    else:
        prior = 0.06 * k.vector_step
    learned = prior * k.step * (age / _MIDDLE_AGE) ** -k.step_power * age / (age + 6.0)
    left = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(1.0, (age - 1.0) / k.horizon)))
    cosine = k.step * left * jnp.minimum(1.0, age / (0.05 * k.horizon))
    return jnp.where(k.adam > 0, cosine, learned)


def _written(k: Any, spec: ParameterSpec, slot: Slot, grad: jax.Array, clock: Clock) -> Any:
    """The moments after a gradient, and both directions: of this step, and of r1."""
    mass = jnp.where(k.square_grows > 0, (clock.age + 1.0) / 2.0, clock.square)
    fast = slot.fast + (grad - slot.fast) / clock.fast
    surprise = grad - k.belief * slot.fast * (clock.age > 1)
    square = slot.square + (surprise * surprise - slot.square) / mass
    floor = 1e-5 * (jnp.sqrt(jnp.mean(square)) + _TINY)
    root = jnp.sqrt(square) + floor
    matrix = _matrix(spec)
    if matrix is not None:
        own, other = jnp.log(root + _TINY), jnp.log(_factored_root(square, matrix) + floor)
        root = jnp.exp(own + k.factored * (other - own))
    known = square > 0
    sharp = jnp.where(known, grad / (root + _TINY), 0.0)
    smooth = jnp.where(known, fast / (root + _TINY), 0.0)
    if matrix is None or spec.fan_in <= 1:
        return slot._replace(fast=fast, square=square), sharp, smooth
    as_matrix = sharp.reshape(matrix)
    pair = [_groups(as_matrix), _groups(as_matrix.T)]
    moments = tuple(
        m + (jnp.einsum("gic,gjc->gij", x, x) / x.shape[-1] - m) / clock.moments
        for m, x in zip(slot.moments, pair, strict=True)
    )
    fresh = (clock.age <= 8) | (clock.age % _FRESH_EVERY == 0)
    roots = jax.lax.cond(
        fresh,
        lambda m, old: tuple(_whitener(k, value) for value in m),
        lambda m, old: old,
        moments,
        slot.roots,
    )
    slot = Slot(fast, square, slot.slow, moments, roots)
    pre = k.before > 0
    sharp, smooth = (
        jnp.where(pre, _whitened(k, roots, x.reshape(matrix)).reshape(spec.shape), x)
        for x in (sharp, smooth)
    )
    orthogonal = k.orthogonal * _orthogonal(fast.reshape(matrix)).reshape(spec.shape)
    sharp, smooth = (jnp.where(k.orthogonal > 0, orthogonal, x) for x in (sharp, smooth))
    return slot, sharp, smooth


def _tensor_step(
    k: Any, spec: ParameterSpec, slot: Slot, value: jax.Array, grad: jax.Array, clock: Clock
) -> tuple[Slot, jax.Array]:
    """One step of one tensor."""
    age = clock.age
    slot, sharp, smooth = _written(k, spec, slot, grad, clock)
    rms = jnp.sqrt(jnp.mean(sharp * sharp)) + _TINY
    sharp = sharp * jnp.minimum(1.0, 3.0 / rms)
    slow = slot.slow + k.kappa / (age + k.kappa - 1.0) * (sharp - slot.slow)
    slot = slot._replace(slow=slow)
    fall = age**-k.fast_power * _MIDDLE_AGE ** (k.fast_power - 0.25)
    w0, w1 = k.sharp * fall, k.fast * fall
    noise = k.kappa**2 / ((2.0 * k.kappa - 1.0) * age)
    far = _bent(k, slow, noise, k.shrink_slow, k.power_slow)
    near = _bent(k, smooth, jnp.asarray(_FAST_NOISE), k.shrink_fast, k.power_fast)
    size = jnp.sqrt(jnp.mean(smooth * smooth) * jnp.mean(slow * slow)) + _TINY
    far = far * (1.0 + k.agreement * jnp.tanh(smooth * slow / size))
    direction = w0 * sharp + w1 * near + k.slow * far
    direction = direction * jnp.where(direction * grad > 0, 1.0, 1.0 - k.caution)
    matrix = _matrix(spec)
    if matrix is not None:
        signal = (smooth * smooth).reshape(matrix) / _FAST_NOISE
        square = slot.square.reshape(matrix) + _TINY
        gain = _gain(signal, 1, k.row_signal) * _gain(signal, 0, k.column_signal)
        gain = gain * _gain(square, 1, k.row_size) * _gain(square, 0, k.column_size)
        direction = direction * gain.reshape(spec.shape)
        if spec.fan_in > 1:
            after = _whitened(k, slot.roots, direction.reshape(matrix)).reshape(spec.shape)
            direction = jnp.where(k.before > 0, direction, after)
    is_adam = k.adam > 0
    direction = jnp.where(is_adam, smooth, direction)
    step = _step_size(k, spec, age)
    share = k.decay * (age / _MIDDLE_AGE) ** k.decay_power * step * (w0 + w1 + k.slow)
    share = jnp.minimum(share, 0.1) if spec.fan_in > 1 else jnp.zeros(())
    share = jnp.where(is_adam, k.decay * step, share)
    return slot, (value - step * direction) * (1.0 - share)


def run(
    task: SuiteTask, steps: int, reads: int, data: Any, held: Any, key: jax.Array, k: Any
) -> Any:
    """A whole run: held-out and mean training losses after every `reads` steps."""
    init_key, batch_key = jax.random.split(key)
    params = task.init(init_key, None)

    def step(carry: Any, index: jax.Array) -> Any:
        slots, params, masses = carry
        batch = task.batch(jax.random.fold_in(batch_key, index), None, data, "train")
        loss, grads = jax.value_and_grad(task.loss)(params, batch, None)
        decays = (0.9, 0.999, k.moments_decay)
        masses = tuple(d * m + 1.0 for d, m in zip(decays, masses, strict=True))
        clock = Clock((index + 1).astype(jnp.float32), *masses)
        with jax.default_matmul_precision("float32"):
            moved = {
                s.name: _tensor_step(k, s, slots[s.name], params[s.name], grads[s.name], clock)
                for s in task.specs
            }
        slots = {name: pair[0] for name, pair in moved.items()}
        return (slots, {name: pair[1] for name, pair in moved.items()}, masses), loss

    def read(params: Params) -> jax.Array:
        return jnp.mean(jax.lax.map(lambda b: task.loss(params, b, None), held, batch_size=4))

    def segment(carry: Any, index: jax.Array) -> Any:
        carry, losses = jax.lax.scan(step, carry, index * reads + jnp.arange(reads))
        return carry, (read(carry[1]), jnp.mean(losses))

    slots = {spec.name: _empty(spec) for spec in task.specs}
    start = (slots, params, tuple(jnp.zeros(()) for _ in range(3)))
    return jax.lax.scan(segment, start, jnp.arange(steps // reads))[1]


def _log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def whitening() -> dict[str, Setting]:
    """Sides, blocks, powers and places of whitening, and other directions, at four step sizes."""
    arms = {
        "base": Setting(),
        "orthogonal 0.2": Setting(orthogonal=0.2),
        "orthogonal 0.4": Setting(orthogonal=0.4),
        "factored 0.5": Setting(factored=0.5),
        "factored 1": Setting(factored=1.0),
        "belief 0.5": Setting(belief=0.5),
        "belief 1": Setting(belief=1.0),
    }
    for side in ("rows", "columns", "both"):
        sides = {"rows": side != "columns", "columns": side != "rows"}
        for block in (8.0, 16.0, 64.0):
            for power in (0.25, 0.5):
                for before in (True, False):
                    when = "before" if before else "after"
                    name = f"{side}, blocks of {block:g}, power {power}, {when}"
                    arms[name] = Setting(block=block, power=power, before=before, **sides)
    steps = (0.5, 0.75, 1.0, 1.4)
    return {f"{n} x {s:g}": replace(arm, step=s) for n, arm in arms.items() for s in steps}


def shapes() -> dict[str, Setting]:
    """250 random bendings of the direction; each knob is turned in about a third of them."""
    draw = np.random.default_rng(9)
    arms = {f"base x {s:g}": Setting(step=s) for s in (1.0, 0.6, 0.8, 1.25)}
    for index in range(250):
        turned: dict[str, float] = {"step": _log_uniform(draw, 0.6, 1.5)}
        ranges: list[tuple[str, Callable[[], float]]] = [
            ("shrink_slow", lambda: _log_uniform(draw, 0.1, 10)),
            ("shrink_fast", lambda: _log_uniform(draw, 0.1, 10)),
            ("power_slow", lambda: draw.uniform(0.6, 1.7)),
            ("power_fast", lambda: draw.uniform(0.6, 1.7)),
            ("agreement", lambda: draw.uniform(-0.5, 0.9)),
            ("row_signal", lambda: draw.uniform(-0.4, 0.5)),
            ("column_signal", lambda: draw.uniform(-0.4, 0.5)),
            ("row_size", lambda: draw.uniform(-0.2, 0.25)),
            ("column_size", lambda: draw.uniform(-0.2, 0.25)),
            ("caution", lambda: draw.uniform(0, 1)),
            ("fast", lambda: 0.09 * _log_uniform(draw, 0.5, 2)),
            ("step_power", lambda: draw.uniform(-0.05, 0.25)),
        ]
        for name, value in ranges:
            drawn = float(value())
            if draw.random() < 0.35:
                turned[name] = drawn
        arms[f"{index}"] = replace(Setting(), **turned)  # type: ignore[arg-type]
    return arms


def priors() -> dict[str, Setting]:
    """220 random priors, half of them whitened, and Adam with a cosine to 500 and 2,000 steps."""
    draw = np.random.default_rng(5)
    arms = {"base x 1": Setting()}
    for horizon in (500.0, 2000.0):
        for rate in np.logspace(-3.2, -0.8, 9):
            for decay in (0.01, 0.1):
                name = f"adam, {horizon:g} steps, rate {rate:.2g}, decay {decay}"
                adam = Setting(step=float(rate), decay=decay, adam=True, horizon=horizon)
                arms[name] = adam
    for index in range(220):
        side = int(draw.integers(4))
        arms[f"{index}"] = Setting(
            step=_log_uniform(draw, 0.4, 2.0),
            decay=0.08 * _log_uniform(draw, 0.25, 4),
            kappa=1 + 1.3 * _log_uniform(draw, 0.4, 2.5),
            fast=0.09 * _log_uniform(draw, 0.35, 2.8),
            sharp=0.02 * _log_uniform(draw, 0.3, 3),
            fast_power=float(draw.uniform(0, 0.5)),
            step_power=float(draw.uniform(-0.2, 0.3)),
            decay_power=float(draw.uniform(-0.4, 0.8)),
            vector_step=_log_uniform(draw, 0.35, 2.8),
            width_power=float(draw.uniform(0.2, 0.9)),
            fan_out_power=float(draw.uniform(-0.3, 0.3)),
            square_grows=bool(draw.integers(2)),
            moments_decay=float(draw.choice([0.95, 0.99])),
            columns=side in (1, 3),
            rows=side in (2, 3),
        )
    return arms


SETS: dict[str, Callable[[], dict[str, Setting]]] = {
    "whitening": whitening,
    "shapes": shapes,
    "priors": priors,
}


def search(
    arms: dict[str, Setting], tasks: tuple[str, ...], seeds: int, steps: int, out: Path
) -> None:
    """Runs all arms on all tasks; a line a task and arm, with the losses of all seeds."""
    table = [asdict(arm) for arm in arms.values()]
    knobs = {
        name: jnp.asarray([float(row[name]) for row in table for _ in range(seeds)], jnp.float32)
        for name in table[0]
    }
    keys = jnp.tile(seed_keys(seeds), (len(table),))
    reads = min(250, steps)

    def compiled(name: str) -> tuple[Any, Any, Any]:
        task = every_task()[name]()
        data = jax.tree.map(jnp.asarray, task.data())
        held = jax.jit(task.held_out)(data)

        def one(data: Any, held: Any, key: jax.Array, arm: dict[str, Any]) -> Any:
            return run(task, steps, reads, data, held, key, Setting(**arm))

        program = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))
        return program.lower(data, held, keys, knobs).compile(), data, held

    begin = time.time()
    with ThreadPoolExecutor() as pool, out.open("a") as file:
        futures = {pool.submit(compiled, name): name for name in tasks}
        for future in as_completed(futures):
            program, data, held = future.result()
            found = [
                np.asarray(x).reshape(len(table), seeds, -1)
                for x in program(data, held, keys, knobs)
            ]
            for index, name in enumerate(arms):
                losses = {
                    label: np.round(values[index], 6).tolist()
                    for label, values in zip(("held_out", "mean_loss"), found, strict=True)
                }
                row = {"task": futures[future], "arm": name, "every": reads, **losses}
                file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{time.time() - begin:.0f} s: {futures[future]}", flush=True)


def report(path: Path, base: str, best: int) -> None:
    """Prints the best arms: interquartile mean over tasks of the loss over the base's."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    end = {(r["task"], r["arm"]): float(np.mean([c[-1] for c in r["held_out"]])) for r in rows}
    tasks = sorted({r["task"] for r in rows})
    scores = []
    for arm in dict.fromkeys(r["arm"] for r in rows):
        ratios = [end[task, arm] / end[task, base] for task in tasks]
        if np.isfinite(ratios).all():
            scores.append((interquartile_mean(ratios), max(ratios), arm))
    for middle, worst, arm in sorted(scores)[:best]:
        print(f"{middle:.3f} (worst {worst:.3f})  {arm}")


def main() -> None:
    """Searches, and prints the best arms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--tasks", default="second", help="names, validation or second")
    parser.add_argument("--only", default="", help="names of arms, with | between; all if empty")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--best", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    arguments = parser.parse_args()
    arms = SETS[arguments.set]()
    if arguments.only:
        arms = {name: arms[name] for name in arguments.only.split("|")}
    tasks = task_names(arguments.tasks)
    if set(tasks) & {*TEST, *CHECK, *BIG}:
        parser.error("nothing is searched on the test set: name tasks of validation or second")
    search(arms, tasks, arguments.seeds, arguments.steps, arguments.out)
    base = "base x 1" if "base x 1" in arms else next(iter(arms))
    report(arguments.out, base, arguments.best)


if __name__ == "__main__":
    main()
