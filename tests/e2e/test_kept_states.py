"""State folders of older formats, which every daemon goes on from."""

from __future__ import annotations

import json
import shutil

import pytest
from e2e_chaos import Job
from e2e_daemon import ROOT, DaemonProcess
from make_state import FLAGS, SESSIONS, SHAPES, make_job

from mnemosyne_client import Client

STATES = sorted((ROOT / "tests" / "golden").glob("state_*"))
MORE = 3


def go_on(client: Client, twin: Job, key: dict[str, str]) -> Job:
    """The kept session, at the step of a twin that was trained here."""
    job = Job.__new__(Job)
    job.__dict__ |= twin.__dict__
    job.session = client.attach(key["name"], key["token"])
    job.parameters = [p.copy() for p in twin.parameters]
    job.stream = None
    return job


@pytest.mark.parametrize("state", STATES, ids=lambda path: path.name)
def test_an_old_state_goes_on_with_the_same_bits(state, tmp_path):
    keys = json.loads((state / "keys.json").read_text())
    shutil.copytree(state, tmp_path / "state")
    daemon = DaemonProcess(*FLAGS, "--state-dir", str(tmp_path / "state"))
    with Client(daemon.tcp) as client:
        for name, key in keys.items():  # The same request finds the same session.
            assert make_job(client, name).session.name == key["name"]
        for name, (optimizer, _, pin, _, last) in SESSIONS.items():
            twin = Job(client, optimizer, "snapshot", f"twin-{name}", SHAPES)
            twin.run(pin)
            pinned = go_on(client, twin, keys[name])
            twin.run(last - pin)
            kept = go_on(client, twin, keys[name])
            assert client.get_session(kept.session.name).last_step <= last
            kept.run(MORE)
            twin.run(MORE)
            assert kept.bits() == twin.bits(), name
            kept.close()
            # Back to the snapshot that was pinned then.
            assert client.rewind_session(pinned.session, "pinned").last_step == pin
            pinned.run(last + MORE - pin)
            assert pinned.bits() == twin.bits(), name
            pinned.close()
            twin.close()
    assert daemon.stop() == 0


def test_there_is_a_state_of_the_format_of_now():
    source = (ROOT / "server" / "store" / "snapshot_file.h").read_text()
    number = source.split('"mnemosyne-snapshot-')[1].split('"')[0]
    assert ROOT / "tests" / "golden" / f"state_{number}" in STATES
