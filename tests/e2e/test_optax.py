"""A job that comes from a local optimizer of Optax, and goes back to one."""

from __future__ import annotations

import os
import subprocess
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from e2e_chaos import Job
from e2e_daemon import ROOT

from mnemosyne_client.optax_state import leaves_of, state_from_optax, state_to_optax

SHAPES = [(17, 9), (300,), ()]
# The hyper-parameters that optax_steps.py has under Optax's names.
DAEMON = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9},
    "adam": {"learning_rate": 0.05},
    "adamw": {"learning_rate": 0.05, "weight_decay": 0.1},
    "lion": {"learning_rate": 0.01, "weight_decay": 0.1},
}
SLOTS = {"sgd": 1, "adam": 2, "adamw": 2, "lion": 1}
AdamPart = namedtuple("AdamPart", ["count", "mu", "nu"])
LionPart = namedtuple("LionPart", ["count", "mu"])
TracePart = namedtuple("TracePart", ["trace"])
EmptyPart = namedtuple("EmptyPart", [])


def optax_python() -> Path:
    """The environment of meta-training, which has Optax."""
    return Path(os.environ.get("MNEMOSYNE_OPTAX_PYTHON", ROOT / ".venv-metatrain/bin/python"))


needs_optax = pytest.mark.skipif(
    not optax_python().exists(), reason="meta-training's environment is not set up"
)


def run_optax(first: int, last: int, jobs: dict[str, dict], folder: Path) -> dict[str, dict]:
    """Takes steps with all of Optax's optimizers, from and to values by their names."""
    source, target = folder / "in.npz", folder / "out.npz"
    np.savez(source, **{f"{name}:{key}": v for name, job in jobs.items() for key, v in job.items()})
    program = Path(__file__).with_name("optax_steps.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [optax_python(), program, str(first), str(last), source, target],
        check=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )
    results: dict[str, dict] = {name: {} for name in jobs}
    with np.load(target) as file:
        for key, values in file.items():
            name, rest = key.split(":")
            results[name][rest] = values
    return results


def part_of(name: str, tensors: dict, count: int):
    """An Optax state with these tensors, as a chain would have it."""
    trees = [[tensors[slot, i] for i in range(len(SHAPES))] for slot in slots_of(name)]
    part = (
        TracePart(*trees)
        if name == "sgd"
        else (LionPart if name == "lion" else AdamPart)(np.int32(count), *trees)
    )
    return (part, EmptyPart())


def slots_of(name: str) -> list[str]:
    return ["momentum_buffer"] if name == "sgd" else ["exp_avg", "exp_avg_sq"][: SLOTS[name]]


def make_job(client, name: str) -> Job:
    job = Job(client, name, "snapshot", f"optax {name} {os.urandom(4).hex()}", SHAPES)
    client.update_session(job.session, hyperparameters=DAEMON[name])
    return job


def take_steps(job: Job, steps: int) -> None:
    stream = job.client.open_stream(job.session)
    for _ in range(steps):
        job.step += 1
        rng = np.random.default_rng(job.step)
        gradients = [(p + rng.normal(size=p.shape)).astype(np.float32) for p in job.parameters]
        job.apply(stream.step(gradients).updates)
    stream.close()


@needs_optax
def test_comes_from_optax_and_goes_back_with_the_same_continuation(tcp_client, tmp_path):
    start = {f"p{i}": np.ones(shape, np.float32) for i, shape in enumerate(SHAPES)}
    whole = run_optax(1, 18, dict.fromkeys(DAEMON, start), tmp_path)
    first = run_optax(1, 6, dict.fromkeys(DAEMON, start), tmp_path)

    middle = {name: continue_here(tcp_client, name, values) for name, values in first.items()}

    last = run_optax(13, 18, middle, tmp_path)
    for name in DAEMON:
        for i in range(len(SHAPES)):
            np.testing.assert_allclose(
                last[name][f"p{i}"], whole[name][f"p{i}"], rtol=2e-5, atol=2e-6, err_msg=name
            )


def continue_here(client, name: str, values: dict) -> dict:
    """Takes steps 7 to 12 in the daemon."""
    job = make_job(client, name)
    tensors = {
        (slot, i): values[f"{slot}/{i}"] for slot in slots_of(name) for i in range(len(SHAPES))
    }
    state = state_from_optax(
        part_of(name, tensors, 6), client.export_state(job.session), int(values["step"])
    )
    client.import_state(job.session, state)
    job.step = 6
    job.parameters = [values[f"p{i}"].copy() for i in range(len(SHAPES))]
    take_steps(job, 6)
    exported = client.export_state(job.session)
    assert exported.header.step == 12
    client.delete_session(job.session)
    results = {f"p{i}": p for i, p in enumerate(job.parameters)} | {"step": np.int64(12)}
    for (slot, i), tensor in exported.tensors().items():
        if slot in slots_of(name):
            results[f"{slot}/{i}"] = tensor
    return results


@pytest.mark.parametrize("name", DAEMON)
def test_there_and_back_is_the_same_bits(tcp_client, name):
    job = make_job(tcp_client, name)
    take_steps(job, 5)
    state = tcp_client.export_state(job.session)
    zeros = {
        (slot, i): np.zeros(shape, np.float32)
        for slot in slots_of(name)
        for i, shape in enumerate(SHAPES)
    }
    optax_state = state_to_optax(state, part_of(name, zeros, 0))
    if name != "sgd":
        assert optax_state[0].count == 5

    other = make_job(tcp_client, name)
    filled = state_from_optax(optax_state, tcp_client.export_state(other.session), 5)
    tcp_client.import_state(other.session, filled)
    other.step, other.parameters = 5, [p.copy() for p in job.parameters]
    take_steps(job, 3)
    take_steps(other, 3)
    assert job.bits() == other.bits()
    for each in (job, other):
        tcp_client.delete_session(each.session)


def test_says_what_does_not_fit(tcp_client):
    job = Job(tcp_client, "adamw", "snapshot", os.urandom(8).hex(), SHAPES)
    job.run(7)  # One parameter is left out of step 7.
    state = tcp_client.export_state(job.session)
    with pytest.raises(ValueError, match="6 to 7 steps"):
        state_to_optax(state, (EmptyPart(),))
    with pytest.raises(ValueError, match="no part of"):
        state_from_optax((EmptyPart(),), state)
    with pytest.raises(ValueError, match="expected"):
        state_from_optax((AdamPart(3, [np.zeros(2)], [np.zeros(2)]),), state)
    trace = [np.zeros(shape, np.float32) for shape in SHAPES]
    sgd = make_job(tcp_client, "sgd")
    with pytest.raises(ValueError, match="counts no steps"):
        state_from_optax(TracePart(trace), tcp_client.export_state(sgd.session))
    job.close()


def test_leaves_have_the_order_of_jax():
    tree = {"b": [1, (2, None)], "a": {"z": 4, "c": 3}}
    assert leaves_of(tree) == [3, 4, 1, 2]
