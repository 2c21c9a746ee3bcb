"""Takes steps with Optax, from and to tensors in a file; run in meta-training's environment.

usage: python optax_steps.py FIRST_STEP LAST_STEP INPUT OUTPUT

The files are of numpy.savez: for each optimizer `<name>:p<i>` are the parameters,
`<name>:<slot>/<i>` the tensors of the daemon's state, `<name>:step` how many steps it has. An input
without `step` begins anew.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax

MODULE = Path(__file__).parents[2] / "client/python/src/mnemosyne_client/optax_state.py"
SLOTS = {"sgd": ["momentum_buffer"], "adam": ["exp_avg", "exp_avg_sq"]}
SLOTS |= {"adamw": SLOTS["adam"], "lion": ["exp_avg"]}
LEAVES = 3
TRANSFORMATIONS = {
    "sgd": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.05),
    "adamw": optax.adamw(0.05, weight_decay=0.1),
    "lion": optax.lion(0.01, b1=0.9, b2=0.99, weight_decay=0.1),
}


def load_module():
    """Loads the conversion alone: the client's other modules need gRPC."""
    spec = importlib.util.spec_from_file_location("optax_state", MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PlainState:
    """What a State offers, without messages."""

    def __init__(self, slots, leaves, step):
        """Holds zeros."""
        self.header = SimpleNamespace(parameter_steps=[step] * len(leaves), step=step)
        sizes = [leaf.size for _ in slots for leaf in leaves]
        self.data = np.zeros(4 * sum(sizes), np.uint8)
        self._keys = [(slot, i, leaf.shape) for slot in slots for i, leaf in enumerate(leaves)]

    def tensors(self):
        """As State.tensors()."""
        views, offset = {}, 0
        for slot, parameter, shape in self._keys:
            count = 4 * int(np.prod(shape, dtype=int))
            views[slot, parameter] = (
                self.data[offset : offset + count].view(np.float32).reshape(shape)
            )
            offset += count
        return views


def run(module, name, first, last, given):
    """Takes one optimizer's steps; returns what is left of them."""
    # A tree with dicts in it, whose keys JAX sorts.
    leaves = [given[f"p{i}"] for i in range(LEAVES)]
    params = {"body": {"a": leaves[0], "b": leaves[1]}, "head": [leaves[2]]}
    transformation = TRANSFORMATIONS[name]
    opt_state = transformation.init(params)
    state = PlainState(SLOTS[name], leaves, int(given["step"]) if "step" in given else 0)
    if "step" in given:
        for (slot, parameter), values in state.tensors().items():
            values[...] = given[f"{slot}/{parameter}"]
        opt_state = module.state_to_optax(state, opt_state)
    for step in range(first, last + 1):
        rng = np.random.default_rng(step)
        noisy = [
            (np.asarray(p) + rng.normal(size=p.shape)).astype(np.float32)
            for p in module.leaves_of(params)
        ]
        gradients = {"body": {"a": noisy[0], "b": noisy[1]}, "head": [noisy[2]]}
        updates, opt_state = transformation.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    module.state_from_optax(opt_state, state, last)
    tensors = {f"{slot}/{i}": values for (slot, i), values in state.tensors().items()}
    flat = {f"p{i}": np.asarray(p) for i, p in enumerate(module.leaves_of(params))}
    return {"step": np.int64(state.header.step), **tensors, **flat}


def main():
    """Runs the steps of all optimizers."""
    first, last, source, target = sys.argv[1:]
    module = load_module()
    file = np.load(source)
    results = {}
    for name in TRANSFORMATIONS:
        given = {key.split(":")[1]: file[key] for key in file if key.startswith(f"{name}:")}
        result = run(module, name, int(first), int(last), given)
        results |= {f"{name}:{key}": value for key, value in result.items()}
    np.savez(target, **results)


if __name__ == "__main__":
    main()
