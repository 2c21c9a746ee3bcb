"""Hyper-parameters as PyTorch names them, and as the daemon does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnemosyne_client import messages

# PyTorch's name of a single value. Others have the same name at both ends.
_TORCH_NAMES = {"learning_rate": "lr", "epsilon": "eps"}
_BETAS = ("beta1", "beta2")

# In torch.optim, `weight_decay` of these is added to the gradient; of all others it shrinks the
# parameter.
_COUPLED = {"sgd", "adam"}

# Options of torch.optim that choose an implementation or a variant that is off.
_IGNORED = {"foreach", "fused"}
_ONLY_OFF = {"amsgrad", "capturable", "differentiable", "decoupled_weight_decay"}


class OptionTable:
    """The options of one optimizer."""

    def __init__(self, optimizer: messages.Optimizer):
        """Takes the names and defaults from the daemon's description."""
        self._name = optimizer.name
        self._daemon_defaults = {h.name: h.default_value for h in optimizer.hyperparameters}
        self._booleans = {h.name for h in optimizer.hyperparameters if h.boolean}
        self.couples_decay = self._name in _COUPLED

    def defaults(self) -> dict[str, Any]:
        """Returns PyTorch's `defaults`: every option with its default."""
        result: dict[str, Any] = {}
        for name, value in self._daemon_defaults.items():
            if name in _BETAS and self._has_betas:
                result["betas"] = tuple(self._daemon_defaults[beta] for beta in _BETAS)
            elif name in self._booleans:
                result[name] = bool(value)
            else:
                result[_TORCH_NAMES.get(name, name)] = value
        if self.couples_decay:
            result["weight_decay"] = 0.0
        return result

    def accept(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the defaults with a caller's `options` in their place.

        Raises:
            TypeError: The optimizer has no such option; the message lists those it has.
            ValueError: The option cannot be switched on here.
        """
        result = self.defaults()
        for name, value in options.items():
            if name in result:
                result[name] = value
            elif name in _ONLY_OFF and value:
                raise ValueError(f"{name} is not supported by the daemon's {self._name}")
            elif name not in _IGNORED and name not in _ONLY_OFF:
                raise TypeError(
                    f"{self._name} has no option {name!r}; it has {', '.join(sorted(result))}"
                )
        return result

    def daemon_values(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the daemon's hyper-parameters of a parameter group."""
        result = {}
        for name in self._daemon_defaults:
            if name in _BETAS and self._has_betas:
                result[name] = float(group["betas"][_BETAS.index(name)])
            elif name == "weight_decay" and self.couples_decay:
                result[name] = 0.0
            else:
                result[name] = float(group[_TORCH_NAMES.get(name, name)])
        return result

    def coupled_decay(self, group: Mapping[str, Any]) -> float:
        """Returns what the parameter is multiplied by when it is added to the gradient.

        The daemon negates gradients of a group that maximizes; the sign makes up for that.
        """
        if not self.couples_decay:
            return 0.0
        return float(group["weight_decay"]) * (-1.0 if group.get("maximize") else 1.0)

    @property
    def _has_betas(self) -> bool:
        return all(beta in self._daemon_defaults for beta in _BETAS)
