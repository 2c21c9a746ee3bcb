"""The daemon does all that it does in the sandbox that its systemd unit makes."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from e2e_chaos import Job
from e2e_daemon import END_SECONDS, ROOT, START_SECONDS, binary, wait_until
from test_security import issue, make_token

from mnemosyne_client import Client, Credentials

UID = 65532
NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
CONFINE = Path(__file__).with_name("confine.py")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes sandboxes"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls"),
    pytest.mark.skipif(not NUMBERS.exists(), reason="numbers of system calls"),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"),
    pytest.mark.skipif(
        binary().parents[1].name in ("asan", "tsan"), reason="sanitizers have calls of their own"
    ),
]


def members(name: str) -> set[str]:
    """Returns the system calls of a group such as @system-service."""
    if not name.startswith("@"):
        return {name}
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = [line.strip() for line in said.splitlines()[1:]]
    return {call for word in words if word and word[0] != "#" for call in members(word)}


def allowed_calls() -> set[str]:
    """Returns the system calls that the unit allows, besides those that every filter does."""
    calls = members("@default")
    text = (ROOT / "deploy" / "mnemosyned.service").read_text()
    for words in re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE):
        names = {call for name in words.lstrip("~").split() for call in members(name)}
        calls = calls - names if words.startswith("~") else calls | names
    return calls


def numbers_of(calls: set[str]) -> str:
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", NUMBERS.read_text()))
    return ",".join(known[call] for call in sorted(calls) if call in known)


class Sandbox:
    """A daemon in a folder that it may write in."""

    def __init__(self, folder: Path, *flags: str):
        self.folder = folder
        self.log = folder / "log"
        program = folder / "mnemosyned"
        if not program.exists():  # Where the user may read it.
            shutil.copy(binary(), program)
        ready = folder / "ready.json"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, CONFINE, folder, numbers_of(allowed_calls()), str(UID)),
                    *(program, "--listen", "127.0.0.1:0", "--ready-file", ready),
                    *("--socket", folder / "socket", "--state-dir", folder / "state"),
                    *("--audit-log", folder / "audit", *flags),
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: ready.exists() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, f"{self.process.poll()}: {self.log.read_text()}"
        self.tcp = json.loads(ready.read_text())["listen"][0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=END_SECONDS) == 0, self.log.read_text()


@pytest.fixture
def folder():
    """A folder of the sandbox's user."""
    with tempfile.TemporaryDirectory(prefix="mnemo-") as name:
        os.chown(name, UID, UID)
        yield Path(name)


def test_the_daemon_serves_keeps_and_reloads_in_the_units_sandbox(folder):
    issue(folder, "server", "DNS:localhost,IP:127.0.0.1")
    token, line = make_token("vision", "--role", "admin")
    (folder / "access").write_text(line + "\n")
    shutil.copytree(ROOT / "models", folder / "models")
    for path in folder.rglob("*"):
        os.chown(path, UID, UID)
    flags = ["--tls-certificate", folder / "server.pem", "--tls-key", folder / "server.key"]
    flags += ["--access", folder / "access", "--models", folder / "models"]
    flags += ["--snapshot-seconds", "1", "--memory-max", "60KiB"]
    ca = (folder / "ca.pem").read_bytes()
    credentials = Credentials(tls=True, root_certificates=ca, access_token=token)
    daemon = Sandbox(folder, *flags)
    try:
        with Client(daemon.tcp, credentials=credentials, wait_seconds=60, timeout=60) as client:
            jobs = [
                Job(client, optimizer, durability, f"{optimizer} {durability}")
                for optimizer in ("adamw", "mnemosyne")
                for durability in ("snapshot", "step")
            ]
            for _ in range(2):  # There is not room for all: some go to the disk and come back.
                for job in jobs:
                    job.run(3)
            for job in jobs:
                job.stream.snapshot("pin")
                job.close()
            daemon.process.send_signal(signal.SIGHUP)
            assert client.server_info().state_keeping.eviction_count > 0
        daemon.stop()

        daemon = Sandbox(folder, *flags)
        with Client(daemon.tcp, credentials=credentials, wait_seconds=60, timeout=60) as client:
            assert [session.last_step for session in client.list_sessions()] == [6] * len(jobs)
        daemon.stop()
    finally:
        daemon.process.kill()
    status = daemon.log.read_text()
    assert "Operation not permitted" not in status, status


def test_the_sandbox_of_the_test_is_one(folder):
    outside = subprocess.run(
        [
            *(sys.executable, CONFINE, folder, numbers_of(allowed_calls()), str(UID)),
            *("/bin/sh", "-c", "cat /proc/meminfo; echo >/etc/mnemosyne; chmod 777 /; id -u"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert outside.stdout.strip() == str(UID)
    assert "meminfo" in outside.stderr and "Read-only" in outside.stderr
    killed = subprocess.run(
        [
            *(sys.executable, CONFINE, folder, numbers_of(allowed_calls()), str(UID)),
            *("/usr/sbin/chroot", "/", "true"),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGSYS
