"""One compilation cache for all tests: several of them build the same programs.

Tests compile far more than they run, so code is hardly optimized. There are two devices, so that
what is spread over several can be tested.
"""

import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_force_host_platform_device_count=2",
    ]
)

import jax
import pytest


@pytest.fixture(scope="module")
def compiled_once() -> Iterator[None]:
    """Lets runs of one configuration share a compiled program, and what tasks the last one left."""
    from mnemosyne_metatrain.training import trainer

    build, built = trainer.build_stations, {}

    def build_once(config: object, cores: object) -> object:
        devices = jax.tree.leaves(cores)[0].sharding.device_set
        key = (repr(config), *sorted(str(d) for d in devices))
        if key not in built:
            built[key] = build(config, cores)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_stations", build_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("jax-cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
