"""The evaluation suite: tasks of families that meta-training never sees."""

from __future__ import annotations

from collections.abc import Callable

from mnemosyne_metatrain.suite import images, language, regression, strokes
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.suite.test_set import BIG, CHEAP, CHECK, TEST

__all__ = ["BIG", "CHEAP", "CHECK", "SECOND", "TEST", "VALIDATION", "every_task"]

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

# The priors were searched on the set above, so that a change of weights is behind there from the
# start. These tell between weights: the same data, but nets, noise and questions of their own.
SECOND: dict[str, Callable[[], SuiteTask]] = {
    "s_conv_noisy": lambda: images.conv("s_conv_noisy", 10, images.flower_patches, 0.2),
    "s_vit_noisy": lambda: images.vit("s_vit_noisy", 24, 2, images.flower_patches, 0.1),
    "s_mixer_noisy": lambda: images.mixer("s_mixer_noisy", 24, 2, strokes.strokes, 0.2),
    "s_deep_noisy": lambda: images.mlp("s_deep_noisy", (32,) * 6, strokes.strokes, 0.15),
    "s_wide": lambda: images.mlp("s_wide", (256, 256), images.flower_patches, 0.0),
    "s_mixer": lambda: images.mixer("s_mixer", 24, 2, images.flower_patches, 0.0),
    "s_autoencoder": lambda: images.autoencoder("s_autoencoder", 12, strokes.strokes),
    "s_places": lambda: regression.places("s_places", 48, regression.flower),
    "s_gpt": lambda: language.gpt("s_gpt", 48, 2, 48, 16, language.other_source),
    "s_bert": lambda: language.masked("s_bert", 48, 2, 48, 16, language.other_source),
}


def every_task() -> dict[str, Callable[[], SuiteTask]]:
    """The makers of all tasks of all sets, by name."""
    return {**VALIDATION, **SECOND, **TEST, **BIG, **CHECK}
