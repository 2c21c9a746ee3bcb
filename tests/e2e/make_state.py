"""Writes tests/golden/state_<FORMAT>: a small state folder, as a daemon of today leaves it.

A folder of a format is written once, when that format begins; test_kept_states.py holds every later
daemon to all of them.

    PYTHONPATH=client/python/src:tests/e2e .venv/bin/python tests/e2e/make_state.py FORMAT
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from e2e_chaos import Job
from e2e_daemon import ROOT, DaemonProcess

from mnemosyne_client import Client

FLAGS = ("--models", "none", "--isa", "baseline", "--threads", "1", "--snapshot-seconds", "0")
SHAPES = [(3, 2), (4,), ()]
# By session: its optimizer, its durability, the step of its pin, that of its snapshot, its last.
SESSIONS = {
    "a": ("adamw", "snapshot", 2, 4, 4),
    "b": ("lion", "step", 2, 3, 5),
    "c": ("sgd", "snapshot", 1, 2, 2),
}


def make_job(client: Client, name: str) -> Job:
    """Makes the session and its job."""
    optimizer, durability, *_ = SESSIONS[name]
    return Job(client, optimizer, durability, f"kept-{name}", SHAPES)


def main() -> None:
    """Writes the folder."""
    target = ROOT / "tests" / "golden" / f"state_{sys.argv[1]}"
    keys = {}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        daemon = DaemonProcess(*FLAGS, "--state-dir", str(state), "--snapshots-kept", "1")
        with Client(daemon.tcp) as client:
            for name, (_, _, pin, snapshot, last) in SESSIONS.items():
                job = make_job(client, name)
                job.run(pin)
                job.stream.snapshot("pinned")
                job.run(snapshot - pin)
                job.stream.snapshot()
                job.run(last - snapshot)
                keys[name] = {"name": job.session.name, "token": job.session.token}
        daemon.kill()
        shutil.copytree(state, target, ignore=shutil.ignore_patterns("lock"))
    (target / "keys.json").write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    main()
