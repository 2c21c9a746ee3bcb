"""Times outer steps: how iterations a second depend on the population, the tasks and the family."""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, VariantConfig
from mnemosyne_metatrain.training.devices import everywhere, split, variant_mesh
from mnemosyne_metatrain.training.estimation import Correction
from mnemosyne_metatrain.training.trainer import build_stations, init_population

FAMILIES = {
    "small": FamilyConfig("mlp", (32, 32), chunk_size=512),
    "wide": FamilyConfig("mlp", (128, 128)),
    "token": FamilyConfig("token_mlp", chunk_size=512),
    "quadratic": FamilyConfig("quadratic", chunk_size=256),
}


def main() -> None:
    """Times each (family, population, tasks) that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", help="family:population:tasks")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--kind", default="mnemosyne")
    arguments = parser.parse_args()
    for case in arguments.cases:
        family, population, tasks = case.split(":")
        config = RunConfig(
            "bench",
            families=(dataclasses.replace(FAMILIES[family], tasks=int(tasks)),),
            variants=tuple(VariantConfig(f"v{i}", seed=i) for i in range(int(population))),
            optimizer={"kind": arguments.kind},
        )
        mesh = variant_mesh(int(population))
        cores = split(mesh, init_population(config))
        start = time.time()
        (station,) = build_stations(config, cores)
        built = time.time() - start
        for i in range(arguments.repeat):
            flag, one = jnp.asarray(i == 0), jnp.ones(())
            coin = Correction(jnp.zeros((), bool), one)
            shared = everywhere(mesh, (jax.random.key(i), one, flag, coin))
            cores, station.tasks, metrics = station.step(
                cores, station.tasks, station.data, *shared
            )
            if i == 2:
                jax.block_until_ready(metrics)
                start = time.time()
        jax.block_until_ready(metrics)
        each = (time.time() - start) / (arguments.repeat - 3)
        print(f"{case}: built {built:.1f} s, {1e3 * each:.1f} ms an outer step", flush=True)


if __name__ == "__main__":
    main()
