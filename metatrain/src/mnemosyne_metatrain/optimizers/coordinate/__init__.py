"""The coordinate-wise form of the published optimizer, for small nets."""

from mnemosyne_metatrain.optimizers.coordinate.config import CoordinateConfig, CoordinateKnobs
from mnemosyne_metatrain.optimizers.coordinate.optimizer import CoordinateMnemosyne

__all__ = ["CoordinateConfig", "CoordinateKnobs", "CoordinateMnemosyne"]
