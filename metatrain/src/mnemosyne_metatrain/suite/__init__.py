"""The evaluation suite: tasks of families that meta-training never sees."""

from __future__ import annotations

from collections.abc import Callable

from mnemosyne_metatrain.suite import images, language, strokes
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.suite.test_set import BIG, CHEAP, CHECK, TEST

__all__ = ["BIG", "CHEAP", "CHECK", "TEST", "VALIDATION", "every_task"]

# Choices are made on these: other families, and other data than those of the test.
VALIDATION: dict[str, Callable[[], SuiteTask]] = {
    "v_mlp": lambda: images.mlp("v_mlp", (48, 48), images.flower_patches, 0.0),
    "v_conv": lambda: images.conv("v_conv", 8, images.flower_patches, 0.0),
    "v_wide": lambda: images.mlp("v_wide", (384,), images.flower_patches, 0.1),
    "v_autoencoder": lambda: images.autoencoder("v_autoencoder", 8, images.flower_patches),
    "v_gpt": lambda: language.gpt("v_gpt", 32, 1, 32, 16, language.other_source),
    "v_strokes": lambda: images.conv("v_strokes", 12, strokes.strokes, 0.0),
    "v_vit": lambda: images.vit("v_vit", 32, 2, strokes.strokes, 0.0),
    "v_gru": lambda: language.gru("v_gru", 48, 24, 16, language.other_source),
}


def every_task() -> dict[str, Callable[[], SuiteTask]]:
    """The makers of all tasks of all sets, by name."""
    return {**VALIDATION, **TEST, **BIG, **CHECK}
