"""The evaluation suite: what belongs to which set, and what held-out examples are."""

import jax
import numpy as np

from mnemosyne_metatrain.data.sources import SOURCES, TRAINING_MODULES, VALIDATION_MODULES
from mnemosyne_metatrain.suite import BIG, CHEAP, CHECK, SECOND, TEST, VALIDATION, every_task
from mnemosyne_metatrain.suite.images import mnist
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks import token_mlp


def test_every_task_of_the_suite_has_a_name_of_its_own() -> None:
    sets = (TEST, VALIDATION, SECOND, BIG, CHECK)
    assert len(every_task()) == sum(len(tasks) for tasks in sets)
    assert len(TEST) >= 16
    assert set(CHEAP) < set(TEST)


def test_sets_read_different_data() -> None:
    assert not set(TRAINING_MODULES) & set(VALIDATION_MODULES)
    assert token_mlp._MODULES == TRAINING_MODULES
    assert {name for name, s in SOURCES.items() if s.used_for == "meta-training"} == {"china"}


def test_every_held_out_image_is_listed_once() -> None:
    task = TEST["wide_noisy"]()
    data = task.data()

    listed = task.held_out(data).images

    assert listed.shape == (32, 64, 144)
    np.testing.assert_array_equal(np.asarray(listed).reshape(2048, 144), mnist().held_out)


def test_tasks_that_draw_hold_the_same_examples_out_every_time() -> None:
    task = TEST["poisson"]()

    first, again = task.held_out(None), task.held_out(None)

    assert first.size == 2048
    np.testing.assert_array_equal(first, again)


def test_the_big_net_has_ten_million_parameters() -> None:
    assert sum(spec.size for spec in BIG["big"]().specs) >= 10_000_000


def test_a_transposed_task_differs_in_what_the_optimizer_sees_alone() -> None:
    task, other = TEST["conv_noisy"](), CHECK["conv_noisy_transposed"]()
    assert [s.stored_shape for s in other.specs] == [s.shape[::-1] for s in task.specs]
    key = jax.random.key(0)
    assert _first_loss(task, key) == _first_loss(other, key)


def _first_loss(task: SuiteTask, key: jax.Array) -> float:
    batch = jax.tree.map(lambda x: x[0], task.held_out(task.data()))
    return float(task.loss(task.init(key), batch))
