"""The daemon's state of a session as a `state_dict` of PyTorch, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mnemosyne_client.session import State

# The float32 copy of a parameter of lower precision, beside the optimizer's own tensors.
MASTER = "master"

# Optimizers whose states count no steps in PyTorch's layout.
_WITHOUT_STEP = frozenset({"sgd", "lion"})

# What the daemon answers its last step once more with, which nobody asks for after an import.
_FOR_RESENDS = frozenset({"signs"})


def tensors_of_state(state: State) -> list[dict[str, torch.Tensor]]:
    """Returns the entries of each parameter, such as `step`, `exp_avg` and `exp_avg_sq`.

    A parameter that has not taken part in a step has none, as in torch.optim; `sgd` and `lion`
    count no steps.
    """
    clocks = state.header.parameter_steps
    counts = state.header.spec.optimizer not in _WITHOUT_STEP
    entries: list[dict[str, torch.Tensor]] = [
        {"step": torch.tensor(float(clock))} if clock and counts else {} for clock in clocks
    ]
    for (slot, parameter), values in state.tensors().items():
        if clocks[parameter] and slot not in _FOR_RESENDS:
            entries[parameter][slot] = torch.from_numpy(_plain(values).copy())
    return entries


def fill_state(
    state: State,
    entries: Mapping[int, Mapping[str, Any]],
    step: int | None,
    clocks: Sequence[int] | None,
) -> None:
    """Replaces the contents of `state` by those of a `state_dict`.

    Args:
        state: A state of the session that is to be filled, for its layout.
        entries: `state_dict()["state"]`. What is not there becomes zero.
        step: The session's step; None takes the highest clock of a parameter.
        clocks: The steps that each parameter took part in; None takes them from `entries`.

    Raises:
        ValueError: A tensor has another shape than the parameter's slot.
    """
    state.data[:] = 0
    for (slot, parameter), values in state.tensors().items():
        saved = entries.get(parameter, {}).get(slot)
        if saved is None:
            continue
        array = torch.as_tensor(saved).detach().cpu().contiguous()
        if tuple(array.shape) != values.shape:
            raise ValueError(
                f"{slot} of parameter {parameter} has shape {tuple(array.shape)} in the "
                f"state_dict, expected {values.shape}"
            )
        values[...] = array.to(_torch_type(values)).numpy()
    if clocks is None or len(clocks) != len(state.header.parameter_steps):
        clocks = [_clock_of(entries.get(i, {})) for i in range(len(state.header.parameter_steps))]
    del state.header.parameter_steps[:]
    state.header.parameter_steps.extend(clocks)
    state.header.step = max(clocks) if step is None else step


def merge_states(old: State, new: State) -> None:
    """Copies into `new` what `old` knows of the parameters that both have, by position.

    `new` has all parameters of `old`, and others after them.
    """
    source, target = old.tensors(), new.tensors()
    for key, values in source.items():
        target[key][...] = values
    for number, clock in enumerate(old.header.parameter_steps):
        new.header.parameter_steps[number] = clock
    new.header.step = old.header.step


def _clock_of(entry: Mapping[str, Any]) -> int:
    """Returns the number of steps that a parameter has taken part in."""
    if "step" in entry:
        return int(entry["step"])
    # SGD and Lion count no steps, but a buffer tells that there was one.
    return 1 if any(value is not None for key, value in entry.items() if key != MASTER) else 0


def _plain(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns `values` in a type that torch.from_numpy takes, with the same bits."""
    return values.view(np.int16) if values.dtype == np.uint16 else values


def _torch_type(values: np.ndarray[Any, Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, _plain(values).dtype)).dtype
