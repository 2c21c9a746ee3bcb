"""FLT masks: the wave identity by loops, and each family against its closed form."""

from __future__ import annotations

import cmath
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.components import flt
from mnemosyne_metatrain.components.flt import Spectrum, SpectrumConfig

FAMILIES = [
    ("gaussian_mixture", 1),
    ("gaussian_mixture", 2),
    ("gaussian_mixture", 3),
    ("shift_invariant", 1),
    ("shift_invariant", 2),
    ("shift_invariant", 3),
    ("local_box", 1),
    ("local_box", 2),
    ("local_box", 3),
    ("local_ball", 3),
]
ONE_OF_EACH_KIND = [FAMILIES[i] for i in (1, 5, 6, 9)]


# Compiled whole: much quicker than operation by operation.
init_spectrum = jax.jit(flt.init_spectrum, static_argnums=(1, 2))
spectrum = jax.jit(flt.spectrum, static_argnums=0)
positional_features = jax.jit(flt.positional_features)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@functools.partial(jax.jit, static_argnums=0)
def make_spectrum(config: SpectrumConfig) -> Spectrum:
    """A spectrum whose learned parameters are all moved from where they start."""
    init_key, base_key = jax.random.split(jax.random.key(0))
    params = flt.init_spectrum(init_key, config, jnp.float64)
    params = {
        name: value + 0.2 * normal(i, *value.shape)
        for i, (name, value) in enumerate(sorted(params.items()))
    }
    return flt.spectrum(config, params, flt.draw_frequencies(base_key, config, dtype=jnp.float64))


def draw_frequencies(config: SpectrumConfig, dtype: str = "float64") -> jax.Array:
    draw = jax.jit(flt.draw_frequencies, static_argnums=(1, 2, 3))
    return draw(jax.random.key(1), config, True, dtype)


def reference_mask(waves: Spectrum, z: np.ndarray) -> float:
    """f(z) = sum_m Re(w_m e^(2 pi i xi_m . z)) by loops over complex numbers."""
    imaginary = np.zeros(len(waves.real)) if waves.imaginary is None else waves.imaginary
    total = 0.0
    for xi, a, b in zip(np.asarray(waves.frequencies), waves.real, imaginary, strict=True):
        turns = sum(float(x) * float(y) for x, y in zip(xi, z, strict=True))
        total += (complex(a, b) * cmath.exp(2j * math.pi * turns)).real
    return total


@pytest.mark.parametrize(
    ("kind", "dimensions", "asymmetric"),
    [(*family, True) for family in FAMILIES] + [(*family, False) for family in ONE_OF_EACH_KIND],
)
def test_features_give_the_mask_of_relative_positions(kind, dimensions, asymmetric):
    config = SpectrumConfig(kind, dimensions, 7, asymmetric=asymmetric)
    waves = make_spectrum(config)
    r = normal(1, 4, dimensions)

    query, key = (np.asarray(x) for x in positional_features(waves, r))
    mask = jax.jit(flt.evaluate_mask)(waves, r[:, None] - r)

    expected = [[reference_mask(waves, r[i] - r[j]) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(query @ key.T, expected, atol=1e-14)
    np.testing.assert_allclose(mask, expected, atol=1e-14)
    assert np.allclose(expected, np.transpose(expected), atol=1e-9) is not asymmetric


def test_masks_may_be_negative():
    config = SpectrumConfig("local_box", 1, 512)
    params = init_spectrum(jax.random.key(0), config, "float64")
    params["amplitude"] = np.array(-0.01)

    waves = spectrum(config, params, draw_frequencies(config))
    query, key = positional_features(waves, np.zeros((1, 1)))

    assert float(query[0] @ key[0]) < 0


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_gaussian_mixture_converges_to_its_closed_form(dimensions):
    config = SpectrumConfig(
        "gaussian_mixture", dimensions, 100_000, 3, asymmetric=True, max_norm=1e9
    )
    params = {
        "weights": np.array([0.5, -0.3, 0.2]),
        "odd_weights": np.array([0.1, 0.4, -0.2]),
        "centers": 0.5 * normal(3, 3, dimensions),
        "log_variances": np.log([0.5, 0.4, 0.7]),
    }
    offsets = np.array([[0.0] * dimensions, [0.2] * dimensions, [-0.4] + [0.1] * (dimensions - 1)])

    waves = spectrum(config, params, draw_frequencies(config))
    estimated = jax.jit(flt.evaluate_mask)(waves, offsets)

    for z, value in zip(offsets, estimated, strict=True):
        exact = 0.0
        for b in range(3):
            variance = math.exp(float(params["log_variances"][b]))
            phase = 2 * math.pi * sum(z * params["centers"][b])
            envelope = (math.pi * variance) ** (dimensions / 2)
            envelope *= math.exp(-(math.pi**2) * variance * sum(z * z))
            exact += float(params["weights"][b]) * envelope * math.cos(phase)
            exact -= float(params["odd_weights"][b]) * envelope * math.sin(phase)
        assert abs(float(value) - exact) < 5e-3


@pytest.mark.parametrize("asymmetric", [False, True])
def test_shift_invariant_mask_converges_to_its_kernel(asymmetric):
    config = SpectrumConfig("shift_invariant", 2, 100_000, asymmetric=asymmetric, max_norm=9.0)
    precisions, offset = np.array([4.0, 0.5]), np.array([0.3, -0.6])
    params = {"amplitude": np.array(-0.7), "log_precisions": np.log(precisions)}
    if asymmetric:
        params["offset"] = offset
    offsets = np.array([[0.0, 0.0], [0.3, -0.6], [1.0, 2.0]])

    waves = spectrum(config, params, draw_frequencies(config))
    estimated = jax.jit(flt.evaluate_mask)(waves, offsets)

    centered = offsets - offset if asymmetric else offsets
    np.testing.assert_allclose(
        estimated, -0.7 * np.exp(-0.5 * (precisions * centered**2).sum(-1)), atol=2e-3
    )


def test_box_transform_is_the_integral_over_the_box():
    xi, radius = np.array([0.7, -0.3]), np.array([0.4, 1.1])
    nodes, weights = np.polynomial.legendre.leggauss(40)

    expected = 1.0
    for frequency, v in zip(xi, radius, strict=True):
        expected *= sum(v * weights * np.cos(2 * math.pi * frequency * v * nodes))

    actual = flt.box_transform(jnp.asarray(xi), jnp.asarray(radius))
    np.testing.assert_allclose(actual, expected, rtol=1e-13)
    np.testing.assert_allclose(
        flt.box_transform(jnp.zeros(2), jnp.asarray(radius)), 4 * 0.4 * 1.1, rtol=1e-15
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_ball_transform_is_the_integral_over_the_ball(dtype, tolerance):
    v = 0.8
    rho = np.array([0.0, 1e-9, 1e-3, 0.099, 0.1, 0.11, 0.5, 2.0, 7.0])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    # Discs of area pi (v^2 - z^2) across the direction of the frequency.
    z = v * nodes
    discs = v * weights * math.pi * (v * v - z * z)
    expected = [sum(discs * np.cos(2 * math.pi * r * z)) for r in rho]

    xi = jnp.asarray(rho[:, None] * np.array([2.0, -1.0, 2.0]) / 3.0, dtype)
    actual = jax.jit(flt.ball_transform)(xi, jnp.asarray(v, dtype))

    np.testing.assert_allclose(actual, expected, atol=tolerance * 4 / 3 * math.pi * v**3)


def test_local_weights_are_the_transform_over_the_density():
    config = SpectrumConfig("local_ball", 3, 5, frequency_scale=0.7, max_norm=1e9)
    params = {"amplitude": np.array(0.3), "log_radius": np.array(-0.5)}
    base = np.asarray(draw_frequencies(config))

    waves = spectrum(config, params, base)

    transforms = jax.jit(flt.ball_transform)(0.7 * base, np.exp(-0.5))
    for i, (draw, transform) in enumerate(zip(base, transforms, strict=True)):
        density = math.exp(-0.5 * float(draw @ draw)) / (math.sqrt(2 * math.pi) * 0.7) ** 3
        weight = waves.real[i]
        np.testing.assert_allclose(waves.frequencies[i], 0.7 * draw)
        np.testing.assert_allclose(weight, 0.3 * transform / (5 * density), rtol=1e-12)


def test_integer_positions_far_out_keep_their_phase_in_float32():
    waves = Spectrum(np.array([[0.25, 0.5]], np.float32), np.ones(1, np.float32), None)
    far = np.array([[400_001.0, 1_000_003.0]], np.float32)
    near = np.array([[1.0, 1.0]], np.float32)

    for x, y in zip(positional_features(waves, far), positional_features(waves, near), strict=True):
        np.testing.assert_array_equal(x, y)


def test_total_weight_is_bounded_and_bounds_the_features():
    config = SpectrumConfig("local_box", 2, 32, asymmetric=True, max_norm=0.25)
    params = init_spectrum(jax.random.key(6), config, "float32")
    params["amplitude"] = np.float32(1e3)
    waves = spectrum(config, params, draw_frequencies(config, "float32"))

    query, key = (np.asarray(x) for x in positional_features(waves, normal(8, 9, 2)))

    assert np.hypot(waves.real, waves.imaginary).sum() <= 0.25 * 1.0001
    assert (query**2).sum(-1).max() < 0.2501
    assert (key**2).sum(-1).max() < 0.2501


@pytest.mark.parametrize(("kind", "dimensions"), ONE_OF_EACH_KIND)
def test_derivatives_are_finite_even_for_a_spectrum_of_zeros(kind, dimensions):
    config = SpectrumConfig(kind, dimensions, 8, asymmetric=True)
    params = jax.eval_shape(lambda key: flt.init_spectrum(key, config), jax.random.key(9))
    params = {name: np.zeros(x.shape, x.dtype) for name, x in params.items()}
    base = np.float32(normal(10, 8, dimensions))
    positions = np.zeros((2, dimensions), np.float32)

    def total(params):
        query, key = flt.positional_features(flt.spectrum(config, params, base), positions)
        return jnp.sum(query) + jnp.sum(key) + jnp.sum(query @ key.T)

    gradients = jax.jit(jax.grad(total))(params)

    assert all(np.isfinite(g).all() for g in gradients.values())
    assert any(np.any(np.asarray(g) != 0) for g in gradients.values())


def test_quasi_random_frequencies_approximate_better_than_independent_ones():
    config = SpectrumConfig("shift_invariant", 2, 64, max_norm=9.0)
    params = init_spectrum(jax.random.key(0), config, "float64")

    def rms_error(quasi_random: bool) -> float:
        def error(key: jax.Array) -> jax.Array:
            base = flt.draw_frequencies(key, config, quasi_random, jnp.float64)
            waves = flt.spectrum(config, params, base)
            return flt.evaluate_mask(waves, jnp.array([0.5, 0.5])) - 0.1 * math.exp(-0.25)

        errors = jax.jit(jax.vmap(error))(jax.random.split(jax.random.key(11), 200))
        return float(np.sqrt(np.mean(np.asarray(errors) ** 2)))

    assert rms_error(quasi_random=True) < 0.5 * rms_error(quasi_random=False)


def test_appended_features_add_the_mask_in_the_exponent():
    waves = make_spectrum(SpectrumConfig("gaussian_mixture", 2, 6, asymmetric=True))
    positions, q, k = normal(12, 5, 2), normal(13, 3, 5, 4), normal(14, 3, 5, 4)

    query, key = positional_features(waves, positions)
    extended_q = np.asarray(flt.append_features(jnp.asarray(q), query))
    extended_k = np.asarray(flt.append_features(jnp.asarray(k), key))

    mask = jax.jit(flt.evaluate_mask)(waves, positions[:, None] - positions)
    np.testing.assert_allclose(
        np.einsum("hid,hjd->hij", extended_q, extended_k),
        np.einsum("hid,hjd->hij", q, k) + mask,
        atol=1e-14,
    )


def test_multiplied_features_scale_the_weights_by_one_plus_the_mask():
    waves = make_spectrum(SpectrumConfig("shift_invariant", 1, 6, asymmetric=True))
    positions, phi = normal(15, 5, 1), np.exp(normal(16, 5, 8))

    multiply = jax.jit(flt.multiply_features)
    query, key = (np.asarray(multiply(phi, x)) for x in positional_features(waves, positions))

    mask = jax.jit(flt.evaluate_mask)(waves, positions[:, None] - positions)
    np.testing.assert_allclose(query @ key.T, (phi @ phi.T) * (1 + mask), rtol=1e-12)
    assert (query @ key.T).min() > 0


def test_refuses_a_ball_that_is_not_in_three_dimensions():
    with pytest.raises(ValueError, match="3 dimensions"):
        SpectrumConfig("local_ball", 2, 8)
