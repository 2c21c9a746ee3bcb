"""A tiny meta-training: its meta-loss falls, and it resumes to the same bits."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, VariantConfig, build
from mnemosyne_metatrain.export import export
from mnemosyne_metatrain.optimizers.registry import make_optimizer
from mnemosyne_metatrain.training.checkpoint import (
    MAX_BYTES,
    load_checkpoint,
    load_notes,
    save_checkpoint,
)
from mnemosyne_metatrain.training.journal import Journal
from mnemosyne_metatrain.training.outer import OuterMetrics
from mnemosyne_metatrain.training.recipe import Recipe
from mnemosyne_metatrain.training.trainer import Trainer, init_population

CONFIG = RunConfig(
    "tiny",
    iterations=80,
    checkpoint_every=40,
    tasks=4,
    window=5,
    min_length=10,
    max_length=20,
    warmup=2,
    recipe=Recipe(learning_rate=0.02, first_weight=1.0),
    families=(FamilyConfig("quadratic", size=8, chunk_size=64),),
)


@pytest.fixture(scope="module")
def whole_run(compiled_once: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, Trainer(CONFIG, folder).run()


def test_meta_loss_falls(whole_run: tuple[Path, object]) -> None:
    with (whole_run[0] / "metrics.csv").open() as file:
        losses = [float(row["meta_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == CONFIG.iterations
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.1


def test_nothing_is_dropped(whole_run: tuple[Path, object]) -> None:
    with (whole_run[0] / "metrics.csv").open() as file:
        assert sum(float(row["dropped"]) for row in csv.DictReader(file)) == 0


def test_resuming_gives_the_same_bits(whole_run: tuple[Path, object], tmp_path: Path) -> None:
    Trainer(CONFIG, tmp_path).run(minutes=1e-3)
    assert json.loads((tmp_path / "run.json").read_text())["iterations"] == 40
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("40,quadratic_8,base,left by a leg that was ki")
    resumed = Trainer(CONFIG, tmp_path).run(resume=True)
    for one, other in zip(jax.tree.leaves(whole_run[1]), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    metrics = [(folder / "metrics.csv").read_text() for folder in (whole_run[0], tmp_path)]
    assert metrics[0] == metrics[1]


def test_a_variant_starts_from_weights_that_it_names(tmp_path: Path) -> None:
    optimizer = {"kind": "lstm", "hidden": 4}
    first = dataclasses.replace(CONFIG, optimizer=optimizer, variants=(VariantConfig("a", 3),))
    theta = jax.tree.map(lambda x: x[0], init_population(first).theta)
    path = export(make_optimizer(optimizer), theta, tmp_path, "0.0.1", {})

    named = (VariantConfig("b", 5, str(path)), VariantConfig("c", 5))
    found = init_population(dataclasses.replace(first, variants=named)).theta.learned

    for start, leaf in zip(jax.tree.leaves(theta.learned), jax.tree.leaves(found), strict=True):
        assert np.array_equal(start, leaf[0])
    assert not all(np.array_equal(leaf[0], leaf[1]) for leaf in jax.tree.leaves(found))
    larger = dataclasses.replace(first, optimizer={**optimizer, "hidden": 5}, variants=named)
    with pytest.raises(ValueError, match="other sizes"):
        init_population(larger)


def test_a_checkpoint_is_small(whole_run: tuple[Path, object]) -> None:
    assert (whole_run[0] / "checkpoint.npz").stat().st_size < 16 << 20


def test_a_checkpoint_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, np.ones(3), 1, {"seconds": 2.0})
    with pytest.raises(ValueError, match="expected less than"):
        save_checkpoint(path, np.zeros(MAX_BYTES // 4, np.float32), 2)
    tree, iteration = load_checkpoint(path, np.zeros(3))
    assert iteration == 1 and float(tree.sum()) == 3.0
    assert load_notes(path)["seconds"] == 2.0


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    journal = Journal(tmp_path / "metrics.csv", ["a", "b"], 0, terminal)
    metrics = OuterMetrics(*(np.asarray([0.5, 1.5]) for _ in OuterMetrics._fields))
    journal.add(0, "family", metrics)
    journal.report(1, 2)
    journal.close()
    assert "[############............] 1/2" in terminal.getvalue()
    assert "loss 0.500 1.500" in terminal.getvalue()


def test_a_leg_needs_a_checkpoint_to_stop_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_every \(80\) below"):
        Trainer(dataclasses.replace(CONFIG, checkpoint_every=80), tmp_path).run(minutes=1)


def test_a_leg_ends_at_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of checkpoint_every"):
        Trainer(CONFIG, tmp_path).run(until=33)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="has no learning_rat"):
        build(RunConfig, {"name": "x", "recipe": {"learning_rat": 1.0}})


def test_a_configuration_says_what_differs_from_another(tmp_path: Path) -> None:
    from mnemosyne_metatrain.config import load_config

    (tmp_path / "a.toml").write_text('name = "a"\ntasks = 3\n[optimizer]\nx = 1\ny = 2\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\nname = "b"\n[optimizer]\ny = 3\n')
    (tmp_path / "c.toml").write_text('extends = "c.toml"\n')

    config = load_config(tmp_path / "b.toml")

    assert (config.name, config.tasks, config.optimizer) == ("b", 3, {"x": 1, "y": 3})
    with pytest.raises(ValueError, match="extends itself"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.parent.glob("configs/**/*.toml")))
def test_checked_in_configurations_are_valid(path: Path) -> None:
    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.optimizers.registry import make_family, make_optimizer

    config = load_config(path)
    for variant in config.variants:
        make_optimizer(config.optimizer, variant.knobs)
    for family in config.families:
        assert make_family(family).specs
