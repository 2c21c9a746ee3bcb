"""A trainer that is killed and goes back to its checkpoint, with a daemon that is killed, too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from e2e_chaos import Daemons  # noqa: E402

from mnemosyne_client import Client  # noqa: E402

STEPS = 14
SCRIPT = Path(__file__).with_name("train_script.py")


def start(address: str, folder: Path, mode: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, SCRIPT, address, folder, mode, str(STEPS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def run(trainer: subprocess.Popen, stop_at: int | None = None) -> None:
    """Lets it train to the end, or kills it while it takes a step."""
    for line in trainer.stdout:
        trainer.stdin.write("\n")
        trainer.stdin.flush()
        if stop_at is not None and int(line) >= stop_at:
            time.sleep(random.uniform(0, 0.02))
            trainer.kill()
            break
    trainer.wait(timeout=120)
    trainer.stdin.close()
    trainer.stdout.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The parameters of a job that nothing happens to."""
    folder = tmp_path_factory.mktemp("trainer")
    daemons = Daemons(folder / "state", memory_max="1GiB")
    trainer = start(daemons.address, folder / "quiet", "import")
    run(trainer)
    assert trainer.returncode == 0
    assert daemons.stop() == 0
    return final(folder / "quiet")


def final(folder: Path) -> list[torch.Tensor]:
    return list(torch.load(folder / "final.pt").values())


@pytest.mark.parametrize("mode", ["rewind", "import"])
def test_a_killed_trainer_goes_on_from_its_checkpoint(tmp_path, expected, mode):
    daemons = Daemons(tmp_path / "state", memory_max="1GiB")
    folder = tmp_path / "killed"
    # Before the first checkpoint, and after some.
    for stop_at in (2, 11, None):
        trainer = start(daemons.address, folder, mode)
        run(trainer, stop_at)
        assert trainer.returncode == (0 if stop_at is None else -signal.SIGKILL)
        if stop_at == 11:
            daemons.kill()

    for a, b in zip(expected, final(folder)):
        assert torch.equal(a, b)
    with Client(daemons.address, wait_seconds=30) as client:
        # The job had one session in all its lives.
        assert len(list(client.list_sessions())) == 1
    assert daemons.stop() == 0
