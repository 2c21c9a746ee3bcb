"""The evaluation suite: tasks of families that meta-training never sees."""

from __future__ import annotations

from collections.abc import Callable

from mnemosyne_metatrain.suite import images, language, special
from mnemosyne_metatrain.suite.task import SuiteTask

# Choices are made on these: other families, and other data than those of the test.
VALIDATION: dict[str, Callable[[], SuiteTask]] = {
    "v_mlp": lambda: images.mlp("v_mlp", (48, 48), images.flower_patches, 0.0),
    "v_conv": lambda: images.conv("v_conv", 8, images.flower_patches, 0.0),
    "v_wide": lambda: images.mlp("v_wide", (384,), images.flower_patches, 0.1),
    "v_autoencoder": lambda: images.autoencoder("v_autoencoder", 8, images.flower_patches),
    "v_gpt": lambda: language.gpt("v_gpt", 32, 1, 32, 16, language.other_source),
}

# Nothing is chosen on these.
TEST: dict[str, Callable[[], SuiteTask]] = {
    "conv": lambda: images.conv("conv", 16, images.digits, 0.0),
    "conv_noisy": lambda: images.conv("conv_noisy", 16, images.digits, 0.2),
    "vit": lambda: images.vit("vit", 32, 2, images.digits, 0.0),
    "vit_noisy": lambda: images.vit("vit_noisy", 32, 2, images.digits, 0.2),
    "mixer_noisy": lambda: images.mixer("mixer_noisy", 32, 2, images.digits, 0.2),
    "deep_noisy": lambda: images.mlp("deep_noisy", (40,) * 8, images.digits, 0.1),
    "wide_noisy": lambda: images.mlp("wide_noisy", (512, 512), images.digits, 0.1),
    "autoencoder": lambda: images.autoencoder("autoencoder", 12, images.digits),
    "gpt": lambda: language.gpt("gpt", 64, 2, 64, 16, language.manual),
    "bert": lambda: language.masked("bert", 64, 2, 64, 16, language.manual),
    "gru": lambda: language.gru("gru", 64, 32, 16, language.manual),
    "poisson": lambda: special.poisson("poisson", 32),
    "fine_tuning": lambda: special.fine_tuning("fine_tuning"),
    "prompt_tuning": lambda: special.prompt_tuning("prompt_tuning"),
}
