"""States of the daemon as those of Optax, and back.

For `optax.sgd` (with momentum), `optax.adam`, `optax.adamw` and `optax.lion`, alone or in a chain
with transformations that keep no tensors. Needs numpy alone: the parts of an Optax state are found
by the names of their fields, and pytrees are dicts, lists, tuples and what is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

if TYPE_CHECKING:
    from mnemosyne_client.session import State

# The fields of an Optax state that hold tensors, and the slots of the daemon's optimizers.
_SLOTS = {
    frozenset({"count", "mu", "nu"}): {"mu": "exp_avg", "nu": "exp_avg_sq"},  # ScaleByAdamState
    frozenset({"count", "mu"}): {"mu": "exp_avg"},  # ScaleByLionState
    frozenset({"trace"}): {"trace": "momentum_buffer"},  # TraceState
}


def leaves_of(tree: Any) -> list[Any]:
    """Returns the leaves of a pytree in JAX's order: dicts by their sorted keys.

    The parameters of a session have this order, so that states fit each other:
    `[ParameterSpec(name=..., shape=p.shape) for p in leaves_of(params)]`.
    """
    return list(_leaves(tree))


def state_to_optax(state: State, opt_state: Any) -> Any:
    """Returns an Optax state with the tensors and counts of a session's state.

    Args:
        state: What Client.export_state() returned.
        opt_state: A state of the local optimizer, such as `tx.init(params)`, for its structure; it
            is not changed.

    Raises:
        ValueError: It has no part that fits, or another number or shape of tensors; or parameters
            took part in different numbers of steps, which Optax cannot say.
    """
    clocks = {int(clock) for clock in state.header.parameter_steps}
    if len(clocks) > 1:
        raise ValueError(
            f"the parameters have taken part in {min(clocks)} to {max(clocks)} steps; Optax counts "
            "one number for all of them"
        )
    count = clocks.pop() if clocks else 0
    tensors = state.tensors()
    found = [False]

    def fill(part: Any) -> Any:
        changes: dict[str, Any] = {}
        for field, slot in _slots_of(part).items():
            found[0] = True
            values = _tensors_of_slot(tensors, slot)
            changes[field] = _refill(getattr(part, field), values, slot)
        if "count" in part._fields:
            changes["count"] = np.asarray(count, np.asarray(part.count).dtype)
        return part._replace(**changes)

    filled = _map_parts(opt_state, fill)
    if not found[0]:
        raise ValueError(_NO_PART)
    return filled


def state_from_optax(opt_state: Any, state: State, step: int | None = None) -> State:
    """Fills a session's state, for its layout, with an Optax state; returns it.

    Args:
        opt_state: The state of the local optimizer.
        state: What Client.export_state() returned of the session that Client.import_state() will
            fill.
        step: The number of steps that were taken; None takes it from the Optax state, which only
            momentum alone does not tell.

    Raises:
        ValueError: It has no part that fits, or another number or shape of tensors; or it does not
            tell the step.
    """
    tensors = state.tensors()
    counts: list[int] = []
    found = [False]

    def read(part: Any) -> Any:
        for field, slot in _slots_of(part).items():
            found[0] = True
            values = leaves_of(getattr(part, field))
            targets = _tensors_of_slot(tensors, slot)
            _check_shapes(values, targets, slot)
            for target, value in zip(targets, values):
                target[...] = np.asarray(value)
        if "count" in part._fields:
            counts.append(int(part.count))
        return part

    state.data[:] = 0
    _map_parts(opt_state, read)
    if not found[0]:
        raise ValueError(_NO_PART)
    if step is None:
        if not counts:
            raise ValueError("the Optax state counts no steps; give the step")
        step = max(counts)
    number = len(state.header.parameter_steps)
    del state.header.parameter_steps[:]
    state.header.parameter_steps.extend([step] * number)
    state.header.step = step
    return state


_NO_PART = (
    "the Optax state has no part of sgd with momentum, adam, adamw or lion: none with the fields "
    "trace; count, mu, nu; or count, mu"
)


def _slots_of(part: Any) -> Mapping[str, str]:
    return _SLOTS.get(frozenset(part._fields), {})


def _map_parts(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Calls `change` with each named tuple that keeps tensors or a count; returns the new tree."""
    if hasattr(tree, "_fields"):
        if _slots_of(tree) or "count" in tree._fields:
            return change(tree)
        return type(tree)(*(_map_parts(child, change) for child in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map_parts(child, change) for child in tree)
    if isinstance(tree, Mapping):
        return {key: _map_parts(child, change) for key, child in tree.items()}
    return tree


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from _leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for child in tree:
            yield from _leaves(child)
    elif tree is not None:
        yield tree


def _tensors_of_slot(tensors: Mapping[tuple[str, int], Any], slot: str) -> list[Any]:
    return [values for (name, _), values in sorted(tensors.items()) if name == slot]


def _check_shapes(values: list[Any], targets: list[Any], slot: str) -> None:
    shapes = [np.shape(value) for value in values]
    expected = [target.shape for target in targets]
    if shapes != expected:
        raise ValueError(f"{slot} has the shapes {shapes}, expected {expected}")


def _refill(tree: Any, values: list[Any], slot: str) -> Any:
    """Returns `tree` with `values` as its leaves."""
    _check_shapes(leaves_of(tree), values, slot)
    rest = iter(values)

    def fill(child: Any) -> Any:
        if isinstance(child, Mapping):
            filled = {key: fill(child[key]) for key in sorted(child)}
            return {key: filled[key] for key in child}
        if hasattr(child, "_fields"):
            return type(child)(*(fill(each) for each in child))
        if isinstance(child, (tuple, list)):
            return type(child)(fill(each) for each in child)
        return None if child is None else np.array(next(rest))

    return fill(tree)
