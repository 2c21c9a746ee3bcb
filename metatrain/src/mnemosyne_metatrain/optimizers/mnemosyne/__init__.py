"""The flagship: coordinate memory, spatial encoder, temporal encoder, decoder."""

from mnemosyne_metatrain.optimizers.mnemosyne.config import Knobs, MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.optimizer import Mnemosyne

__all__ = ["Knobs", "Mnemosyne", "MnemosyneConfig"]
