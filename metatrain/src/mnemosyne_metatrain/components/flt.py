"""FLT: relative positional encodings that are given by their learned spectrum.

Attention weights exp(q_i . k_j + f(r_i - r_j)) need no L x L matrix when the mask f is a short sum
of waves. With fixed frequencies xi_m (cycles per unit of position) and complex weights w_m,

    f(z) = sum_m Re( w_m e^(2 pi i xi_m . z) ),   w_m = g(xi_m) / (r p(xi_m)),

which estimates the inverse Fourier transform of g without bias when xi_m is drawn from p. Each
wave is two real features of a query and two of a key whose dot product is f(r_i - r_j) exactly;
they are appended to q and k before a softmax feature map is applied. Positions are in R^1, R^2 or
R^3, or in any R^l.

The frequencies are drawn once and saved with the weights: g is learned for the ones drawn.

Sources: arXiv 2302.01925, the sections on FourierLearner-Transformers and on the Gaussian-mixture,
shift-invariant-kernel and local variants. Not published: the real form with signed weights, and
the one with complex weights (asymmetric f), which is the key side turned by the phase of w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import DTypeLike

SpectrumKind: TypeAlias = Literal["gaussian_mixture", "shift_invariant", "local_box", "local_ball"]
SpectrumParams: TypeAlias = dict[str, jax.Array]


class Spectrum(NamedTuple):
    """A mask as waves: frequencies [r, l], and weights `real` [r] and `imaginary` [r] or None.

    The mask is even when `imaginary` is None. 1/r and the density are part of the weights.
    """

    frequencies: jax.Array
    real: jax.Array
    imaginary: jax.Array | None


@dataclass(frozen=True)
class SpectrumConfig:
    """Which family of masks is learned.

    Attributes:
        kind: "gaussian_mixture", "shift_invariant" (a Gaussian kernel), "local_box" (in 1-D: a
            window) or "local_ball" (3-D).
        dimensions: l, the size of a position.
        num_frequencies: r; a position becomes 2 r features.
        num_modes: Gaussians of the mixture.
        asymmetric: Whether f(z) may differ from f(-z). The mixture then has odd imaginary weights
            too; the other kinds are centred at a learned offset.
        frequency_scale: Standard deviation of the frequencies, in cycles per unit of position.
        max_norm: Upper bound of sum_m |w_m|, hence of |f| and of the squared norm that is added to
            q and to k. Random features lose accuracy exponentially in those norms.
    """

    kind: SpectrumKind
    dimensions: int
    num_frequencies: int
    num_modes: int = 8
    asymmetric: bool = False
    frequency_scale: float = 1.0
    max_norm: float = 0.5

    def __post_init__(self) -> None:
        """Checks the kind against the dimensions.

        Raises:
            ValueError: If the kind is unknown, or it is a ball that is not in 3 dimensions.
        """
        if self.kind not in get_args(SpectrumKind):
            raise ValueError(f"unknown spectrum: {self.kind!r}")
        if self.kind == "local_ball" and self.dimensions != 3:
            raise ValueError("local_ball needs 3 dimensions")


def draw_frequencies(
    key: jax.Array,
    config: SpectrumConfig,
    quasi_random: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Draws standard normal base frequencies [r, l]; `spectrum` scales them.

    With `quasi_random`, a randomly shifted additive-recurrence lattice is mapped through the
    inverse normal distribution function, which covers the space more evenly than independent draws.
    """
    shape = (config.num_frequencies, config.dimensions)
    if not quasi_random:
        return jax.random.normal(key, shape, dtype)
    # The generalized golden ratio: the positive root of x^(l + 1) = x + 1.
    root = 2.0
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (1.0 + config.dimensions))
    steps = root ** -np.arange(1.0, config.dimensions + 1.0)
    lattice = np.outer(np.arange(1.0, config.num_frequencies + 1.0), steps) % 1.0
    shift = jax.random.uniform(key, (config.dimensions,), dtype)
    uniform = (jnp.asarray(lattice, dtype) + shift) % 1.0
    edge = 0.5 / (64 * config.num_frequencies)
    return ndtri(jnp.clip(uniform, edge, 1.0 - edge))


def init_spectrum(
    key: jax.Array, config: SpectrumConfig, dtype: DTypeLike = jnp.float32
) -> SpectrumParams:
    """Draws the learned parameters of a spectrum; amplitudes start small, so f starts near 0."""
    size = (config.dimensions,)
    if config.kind == "gaussian_mixture":
        modes = (config.num_modes,)
        weight_key, center_key, odd_key = jax.random.split(key, 3)
        params = {
            "weights": 0.01 * jax.random.normal(weight_key, modes, dtype),
            "centers": config.frequency_scale * jax.random.normal(center_key, modes + size, dtype),
            "log_variances": jnp.full(modes, 2.0 * math.log(config.frequency_scale), dtype),
        }
        if config.asymmetric:
            params["odd_weights"] = 0.01 * jax.random.normal(odd_key, modes, dtype)
        return params
    params = {"amplitude": jnp.asarray(0.1, dtype)}
    if config.kind == "shift_invariant":
        params["log_precisions"] = jnp.zeros(size, dtype)
    else:
        params["log_radius"] = jnp.full(size if config.kind == "local_box" else (), -1.0, dtype)
    if config.asymmetric:
        params["offset"] = jnp.zeros(size, dtype)
    return params


def spectrum(config: SpectrumConfig, params: SpectrumParams, base: jax.Array) -> Spectrum:
    """Evaluates the learned spectrum at the saved base frequencies, bounded by `max_norm`.

    Args:
        config: The family.
        params: From `init_spectrum`.
        base: From `draw_frequencies`, [r, l].

    Raises:
        ValueError: If `base` does not have the configured shape.
    """
    if base.shape != (config.num_frequencies, config.dimensions):
        raise ValueError("base frequencies do not have the shape that the config has")
    if config.kind == "gaussian_mixture":
        waves = _gaussian_mixture(config, params, base)
    elif config.kind == "shift_invariant":
        waves = _shift_invariant(params, base)
    else:
        waves = _local(config, params, base)
    if "offset" in params:
        waves = _shifted(waves, params["offset"])
    return bound_norm(waves, config.max_norm)


def gaussian_density(xi: jax.Array, scale: float) -> jax.Array:
    """Returns the density of N(0, scale^2 I) at xi [..., l]."""
    size = xi.shape[-1]
    square = jnp.sum(xi * xi, axis=-1) / (scale * scale)
    return jnp.exp(-0.5 * square) / (math.sqrt(2.0 * math.pi) * scale) ** size


def _gaussian_mixture(config: SpectrumConfig, params: SpectrumParams, base: jax.Array) -> Spectrum:
    """g(xi) = sum_b (w_b even + i v_b odd part of) exp(-|xi - mu_b|^2 / s_b^2).

    Taking the even part of the real and the odd part of the imaginary weights makes g Hermitian,
    so that f is real, and does not change the expectation of the waves.
    """
    xi = config.frequency_scale * base
    centers, variances = params["centers"], jnp.exp(params["log_variances"])

    def bumps(sign: float) -> jax.Array:
        square = jnp.sum((sign * xi[:, None, :] - centers) ** 2, axis=-1)
        return jnp.exp(-square / variances)

    right, left = bumps(1.0), bumps(-1.0)
    scale = 0.5 / (config.num_frequencies * gaussian_density(xi, config.frequency_scale))
    real = scale * jnp.sum(params["weights"] * (right + left), axis=-1)
    if "odd_weights" not in params:
        return Spectrum(xi, real, None)
    return Spectrum(xi, real, scale * jnp.sum(params["odd_weights"] * (right - left), axis=-1))


def _shift_invariant(params: SpectrumParams, base: jax.Array) -> Spectrum:
    """f(z) = alpha exp(-sum_a c_a z_a^2 / 2): its spectrum over alpha is a density, so g/p = alpha.

    The frequencies are the learned sqrt(c_a) / (2 pi) times the base draws, clamped so that a
    runaway precision stays finite.
    """
    root_precisions = jnp.exp(0.5 * jnp.clip(params["log_precisions"], -20.0, 20.0))
    weights = jnp.broadcast_to(params["amplitude"] / base.shape[0], base.shape[:1])
    return Spectrum(base * root_precisions / (2.0 * math.pi), weights, None)


def _local(config: SpectrumConfig, params: SpectrumParams, base: jax.Array) -> Spectrum:
    """f(z) = C on a box |z_a| <= v_a or a ball |z| <= v, and 0 outside."""
    xi = config.frequency_scale * base
    radius = jnp.exp(params["log_radius"])
    transform = box_transform if config.kind == "local_box" else ball_transform
    density = gaussian_density(xi, config.frequency_scale)
    weights = params["amplitude"] * transform(xi, radius) / (config.num_frequencies * density)
    return Spectrum(xi, weights, None)


def box_transform(xi: jax.Array, radius: jax.Array) -> jax.Array:
    """Transform of 1[|z_a| <= v_a]: the product over axes of sin(2 pi v_a xi_a) / (pi xi_a).

    Args:
        xi: Frequencies, [..., l].
        radius: v, [l].
    """
    return jnp.prod(2.0 * radius * jnp.sinc(2.0 * radius * xi), axis=-1)


def ball_transform(xi: jax.Array, radius: jax.Array) -> jax.Array:
    """Transform of 1[|z| <= v] in R^3: (sin x - x cos x) / (2 pi^2 rho^3), x = 2 pi v rho.

    Below x = 1/2 it is computed as 4/3 pi v^3 times the series of 3 (sin x - x cos x) / x^3.

    Args:
        xi: Frequencies, [..., 3]; rho is their norm.
        radius: v, a scalar.
    """
    square = (2.0 * math.pi * radius) ** 2 * jnp.sum(xi * xi, axis=-1)
    is_small = square < 0.25
    x = jnp.sqrt(jnp.where(is_small, 1.0, square))
    direct = 3.0 * (jnp.sin(x) - x * jnp.cos(x)) / x**3
    near = jnp.where(is_small, square, 0.0)
    series = jnp.zeros_like(near)
    for k in range(6, -1, -1):
        series = series * near + 3.0 * (-1.0) ** k * (2 * k + 2) / math.factorial(2 * k + 3)
    return 4.0 / 3.0 * math.pi * radius**3 * jnp.where(is_small, series, direct)


def _shifted(waves: Spectrum, offset: jax.Array) -> Spectrum:
    """Turns an even f(z) into f(z - offset): each weight turns by e^(-2 pi i xi . offset)."""
    cosine, sine = _waves(offset, waves.frequencies)
    return Spectrum(waves.frequencies, waves.real * cosine, -waves.real * sine)


def bound_norm(waves: Spectrum, max_norm: float) -> Spectrum:
    """Scales the weights down, if needed, so that sum_m |w_m| is at most `max_norm`."""
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(jnp.sum(_magnitude(waves)), max_norm * 1e-3))
    imaginary = None if waves.imaginary is None else waves.imaginary * scale
    return Spectrum(waves.frequencies, waves.real * scale, imaginary)


def positional_features(waves: Spectrum, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes query and key features whose dot product is f(r_i - r_j).

    With h = |w|^(1/2), c and s the cosine and sine of 2 pi xi . r, and w = a + i b:

        query: h (c, s),   key: (a c + b s, a s - b c) / h

    so the two sides have equal norms. h is smoothed at 0, where its derivative is infinite; the
    product does not see it.

    Args:
        waves: The mask.
        positions: r, [..., L, l].

    Returns:
        Query and key features, both [..., L, 2 r], with squared norms of at most sum_m |w_m|
        (plus the smoothing on the query side).
    """
    cosine, sine = _waves(positions, waves.frequencies)
    root = jnp.sqrt(_magnitude(waves))
    real = waves.real / root
    query = jnp.concatenate([root * cosine, root * sine], axis=-1)
    if waves.imaginary is None:
        return query, jnp.concatenate([real * cosine, real * sine], axis=-1)
    imaginary = waves.imaginary / root
    key = [real * cosine + imaginary * sine, real * sine - imaginary * cosine]
    return query, jnp.concatenate(key, axis=-1)


def evaluate_mask(waves: Spectrum, offsets: jax.Array) -> jax.Array:
    """Evaluates f at offsets z [..., l] from its waves, for plots and tests."""
    cosine, sine = _waves(offsets, waves.frequencies)
    mask = cosine @ waves.real
    return mask if waves.imaginary is None else mask - sine @ waves.imaginary


def append_features(x: jax.Array, features: jax.Array) -> jax.Array:
    """Appends positional features [..., L, 2r] to q or k [..., L, d]: f is added in the exponent.

    The softmax feature map that follows sees exp(q . k + f), with no change of temperature.
    """
    features = jnp.broadcast_to(features, x.shape[:-1] + features.shape[-1:])
    return jnp.concatenate([x, features.astype(x.dtype)], axis=-1)


def multiply_features(phi: jax.Array, features: jax.Array) -> jax.Array:
    """Multiplies attention weights by 1 + f instead: Khatri-Rao product of phi with [1, features].

    The result [..., L, M (1 + 2 r)] is used in place of phi, for queries and for keys. The mask is
    exact whatever the feature map's error, and positive while sum_m |w_m| < 1; the price is
    1 + 2 r times the features. Not published.
    """
    one = jnp.ones((*features.shape[:-1], 1), features.dtype)
    factors = jnp.concatenate([one, features], axis=-1)
    product = phi[..., :, None] * factors[..., None, :]
    return product.reshape(*product.shape[:-2], -1)


def _magnitude(waves: Spectrum) -> jax.Array:
    """Returns |w_m|, smoothed by 1e-6 so that roots of it have finite derivatives."""
    square = waves.real * waves.real + 1e-12
    if waves.imaginary is not None:
        square = square + waves.imaginary * waves.imaginary
    return jnp.sqrt(square)


def _waves(positions: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cosine and sine of 2 pi xi_m . r, [..., r].

    Phases are in turns: whole turns are dropped from each axis' product and from the sum, so that
    the argument of the trigonometric functions is at most pi. Products are elementwise, because a
    device may compute a matrix product with fewer bits.
    """
    turns = positions[..., None, :] * frequencies
    turns = jnp.sum(turns - jnp.round(turns), axis=-1)
    angle = (2.0 * math.pi) * (turns - jnp.round(turns))
    return jnp.cos(angle), jnp.sin(angle)
