"""A trainer that is killed and goes back to its checkpoint, with a daemon that is killed, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from e2e_chaos import Daemons  # noqa: E402

from mnemosyne_client import Client  # noqa: E402

STEPS = 14
SCRIPT = Path(__file__).with_name("train_script.py")


def start(address: str, folder: Path, mode: str, pause_ms: int) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, SCRIPT, address, folder, mode, str(STEPS), str(pause_ms)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The parameters of a job that nothing happens to."""
    folder = tmp_path_factory.mktemp("trainer")
    daemons = Daemons(folder / "state", memory_max="1GiB")
    trainer = start(daemons.address, folder / "quiet", "import", 0)
    trainer.communicate(timeout=120)
    assert trainer.returncode == 0
    assert daemons.stop() == 0
    return final(folder / "quiet")


def final(folder: Path) -> list[torch.Tensor]:
    return list(torch.load(folder / "final.pt").values())


@pytest.mark.parametrize("mode", ["rewind", "import"])
def test_a_killed_trainer_goes_on_from_its_checkpoint(tmp_path, expected, mode):
    daemons = Daemons(tmp_path / "state", memory_max="1GiB")
    folder = tmp_path / "killed"
    kills = 0
    # Before the first checkpoint, and after some.
    for stop_at in (2, 11, None):
        trainer = start(daemons.address, folder, mode, 10)
        for line in trainer.stdout:
            if stop_at is not None and int(line) >= stop_at:
                trainer.kill()
                kills += 1
                break
        trainer.communicate(timeout=120)
        if stop_at == 11:
            daemons.kill()
    assert kills == 2 and trainer.returncode == 0

    for a, b in zip(expected, final(folder)):
        assert torch.equal(a, b)
    with Client(daemons.address, wait_seconds=30) as client:
        # The job had one session in all its lives.
        assert len(list(client.list_sessions())) == 1
    assert daemons.stop() == 0
