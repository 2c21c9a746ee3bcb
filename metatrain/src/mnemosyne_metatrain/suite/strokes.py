"""Drawn characters: ten classes of three strokes each, bent, moved and blurred."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.suite.images import CLASSES, SIDE, Images

_TRAIN, _HELD_OUT = 1536, 2048
_STROKES = 3


def _draw(rng: np.random.Generator, template: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws one character from its strokes' end points [strokes, 2, 2], in [0, 1], as [64]."""
    angle, stretch = rng.normal(0.0, 0.15), np.exp(rng.normal(0.0, 0.12, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    ends = (template + rng.normal(0.0, 0.04, template.shape) - 0.5) @ turn * stretch
    ends = ends + 0.5 + rng.normal(0.0, 0.05, 2)
    axis = (np.arange(SIDE) + 0.5) / SIDE
    pixels = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    start, along = ends[None, :, 0], ends[None, :, 1] - ends[None, :, 0]
    share = np.sum((pixels - start) * along, axis=-1) / np.sum(along**2, axis=-1)
    nearest = start + np.clip(share, 0.0, 1.0)[..., None] * along
    distance = np.sum((pixels - nearest) ** 2, axis=-1).min(axis=1)
    thickness = np.exp(rng.normal(-2.7, 0.2))
    ink: NDArray[np.float64] = np.exp(-distance / (2.0 * thickness**2))
    return ink


@cache
def strokes() -> Images:
    """A small set to train on, 1,536 characters, and 2,048 held out; 8 x 8 pixels."""
    rng = np.random.default_rng(5)
    templates = rng.uniform(0.1, 0.9, (CLASSES, _STROKES, 2, 2))
    labels = rng.integers(0, CLASSES, _TRAIN + _HELD_OUT)
    x = np.stack([_draw(rng, templates[label]) for label in labels])
    x = x + rng.normal(0.0, 0.1, x.shape)
    images = ((x - x.mean()) / x.std()).astype(np.float32)
    y = labels.astype(np.int32)
    return Images(images[:_TRAIN], y[:_TRAIN], images[_TRAIN:], y[_TRAIN:])
