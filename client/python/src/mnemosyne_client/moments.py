"""Adam's moments inside a learned optimizer's state, as PyTorch keeps them.

`mnemosyne` keeps r = m / (1 - beta1^t) and s = v / (1 - beta2^t), where m and v are `exp_avg` and
`exp_avg_sq` of `torch.optim.Adam` after t steps: a state can begin where Adam stopped, and Adam
can go on from a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemosyne_client.session import State

_FAST, _SQUARE = "fast", "square"


@dataclass(frozen=True)
class AdamMoments:
    """What Adam keeps of one parameter.

    Attributes:
        step: Steps that the parameter has taken part in.
        exp_avg: The mean of gradients, without correction of its bias, in the parameter's shape.
        exp_avg_sq: The mean of their squares.
    """

    step: int
    exp_avg: npt.NDArray[np.float32]
    exp_avg_sq: npt.NDArray[np.float32]


def adam_moments(state: State, *, betas: tuple[float, float] = (0.9, 0.999)) -> list[AdamMoments]:
    """Returns Adam's moments of each parameter of an exported state.

    Args:
        state: Of a session with `mnemosyne` and `state_precision` full, from export_state().
        betas: Discounts of the two memories; those of the models that are shipped.

    Raises:
        ValueError: The state is of another optimizer, or has 16 bits a number.
    """
    memories = _memories_of(state)
    moments = []
    for number, step in enumerate(state.header.parameter_steps):
        fast, square = memories[number]
        masses = [1.0 - beta**step for beta in betas]
        moments.append(
            AdamMoments(
                int(step),
                (fast.astype(np.float64) * masses[0]).astype(np.float32),
                (square.astype(np.float64) * masses[1]).astype(np.float32),
            )
        )
    return moments


def put_adam_moments(
    state: State,
    moments: Sequence[AdamMoments],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """Replaces the first two memories, and the clocks, of an exported state by Adam's.

    All else, such as the slow memory, stays: import the state of a new session to begin with
    nothing but Adam's moments.

    Args:
        state: As adam_moments() takes it; import_state() gives it back to the daemon.
        moments: One a parameter, such as the entries of a `state_dict` of `torch.optim.Adam`.
        betas: As adam_moments() takes them; Adam has to have had the same.

    Raises:
        ValueError: The state is of another optimizer or has 16 bits a number, or a moment has
            another shape than its parameter.
    """
    memories = _memories_of(state)
    if len(moments) != len(memories):
        raise ValueError(f"there are {len(moments)} moments for {len(memories)} parameters")
    for number, ((fast, square), moment) in enumerate(zip(memories, moments)):
        if moment.step < 0:
            raise ValueError(f"the step of parameter {number} is {moment.step}, expected 0 or more")
        pairs = ((fast, moment.exp_avg, betas[0]), (square, moment.exp_avg_sq, betas[1]))
        for memory, values, beta in pairs:
            array = np.asarray(values, np.float64)
            if array.shape != memory.shape:
                raise ValueError(
                    f"a moment of parameter {number} has shape {array.shape}, expected "
                    f"{memory.shape}"
                )
            memory[...] = array / (1.0 - beta**moment.step) if moment.step else 0.0
    del state.header.parameter_steps[:]
    state.header.parameter_steps.extend(moment.step for moment in moments)
    state.header.step = max((moment.step for moment in moments), default=0)


def _memories_of(state: State) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Returns views of r and s of each parameter."""
    tensors = state.tensors()
    count = len(state.header.parameter_steps)
    if any((slot, i) not in tensors for slot in (_FAST, _SQUARE) for i in range(count)):
        raise ValueError(
            f"the state of {state.header.spec.optimizer} has no memories `fast` and `square` of "
            "32 bits; this takes that of mnemosyne with state_precision full"
        )
    return [(tensors[_FAST, i], tensors[_SQUARE, i]) for i in range(count)]
