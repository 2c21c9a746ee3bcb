"""The test set. Nothing is chosen on it, and its data is in no other set.

| family | tasks |
|---|---|
| convolutional nets | conv, conv_noisy, denoiser |
| vision transformers | vit, vit_noisy |
| MLP-mixer | mixer_noisy |
| deep and wide perceptrons | deep_noisy, wide_noisy |
| autoencoder | autoencoder |
| transformers on characters, causal and masked | gpt, bert |
| recurrent net | gru |
| coordinates to values, without noise | elevation |
| physics-informed net | poisson |
| fine-tuning, and a prompt for a frozen net | fine_tuning, prompt_tuning |
"""

from __future__ import annotations

from collections.abc import Callable

from mnemosyne_metatrain.suite import images, language, regression, special
from mnemosyne_metatrain.suite.task import SuiteTask

Makers = dict[str, Callable[[], SuiteTask]]

TEST: Makers = {
    "conv": lambda: images.conv("conv", 16, images.mnist, 0.0, 12),
    "conv_noisy": lambda: images.conv("conv_noisy", 16, images.mnist, 0.2, 12),
    "denoiser": lambda: regression.denoiser("denoiser", 16),
    "vit": lambda: images.vit("vit", 32, 2, images.mnist, 0.0, 12),
    "vit_noisy": lambda: images.vit("vit_noisy", 32, 2, images.mnist, 0.2, 12),
    "mixer_noisy": lambda: images.mixer("mixer_noisy", 32, 2, images.mnist, 0.2, 12),
    "deep_noisy": lambda: images.mlp("deep_noisy", (40,) * 8, images.digits, 0.1),
    "wide_noisy": lambda: images.mlp("wide_noisy", (512, 512), images.mnist, 0.1, 12),
    "autoencoder": lambda: images.autoencoder("autoencoder", 12, images.mnist, 12),
    "gpt": lambda: language.gpt("gpt", 64, 2, 64, 16, language.manual),
    "bert": lambda: language.masked("bert", 64, 2, 64, 16, language.manual),
    "gru": lambda: language.gru("gru", 64, 32, 16, language.manual),
    "elevation": lambda: regression.places("elevation", 64, regression.landscape),
    "poisson": lambda: special.poisson("poisson", 32),
    "fine_tuning": lambda: special.fine_tuning("fine_tuning"),
    "prompt_tuning": lambda: special.prompt_tuning("prompt_tuning"),
}

# A net of more than ten million parameters, on five million letters of documentation.
BIG: Makers = {
    "big": lambda: language.gpt("big", 384, 6, 128, 32, language.docstrings, heads=6),
}

# The same nets as the optimizer sees them when another framework stores them.
CHECK: Makers = {
    "conv_noisy_transposed": lambda: TEST["conv_noisy"]().transposed("conv_noisy_transposed"),
    "gpt_transposed": lambda: TEST["gpt"]().transposed("gpt_transposed"),
}

# Those that also run for 10,000 steps.
CHEAP = ("conv_noisy", "deep_noisy", "autoencoder", "elevation", "poisson", "fine_tuning")
