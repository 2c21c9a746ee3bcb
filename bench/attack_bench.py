"""What hostile clients cost the others: the daemon's peak of memory, and an honest tenant's steps.

Each attack has a daemon of its own, with TLS and two tenants. An honest one runs small steps, in
turns without the attack and under it; the hostile one, or a stranger without credentials, attacks
from a process that leaves the processor to the others, as another machine would. What TLS costs the
daemon, and what gRPC does with the frames, is the daemon's all the same.

The hostile tenant has bounds of its own; without them it may take all streams and memory that the
daemon has for sessions.

usage: attack_bench.py FOLDER_OF_PROGRAMS [--rounds N] [--seconds S] [--only ATTACK ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "e2e"))
import hostile

WIRE_BYTES = 512 << 20
TRIES = 50
BASE_BYTES = 64 << 20
GREEDY = "greedy steps"
STRANGERS = ("idle connections", "slow loris", "many streams", "half-sent messages",
             "endless headers", "stream resets")  # fmt: skip


def openssl(*arguments: str) -> None:
    """Runs openssl."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class House:
    """A daemon, its certificate, and its tenants' tokens, in a folder."""

    def __init__(self, programs: Path, folder: Path):
        """Starts the daemon in `folder`."""
        self.ctl, self.folder = programs / "mnemosynectl", folder
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *key, "-keyout", f"{folder}/key", "-out", f"{folder}/cert",
                "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")  # fmt: skip
        lines = []
        for tenant in ("honest", "hostile"):
            made = json.loads(subprocess.check_output([self.ctl, "--json", "token", tenant]))
            (folder / tenant).write_text(made["token"])
            lines.append(made["line"])
        lines.append("limit tenant=hostile sessions=10 streams=200 memory=512MiB")
        (folder / "access").write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [
                programs / "mnemosyned",
                *("--listen", "127.0.0.1:0", "--ready-file", folder / "ready"),
                *("--tls-certificate", folder / "cert", "--tls-key", folder / "key"),
                *("--access", folder / "access", "--models", "none", "--device", "cpu"),
                *("--memory-max", "1GiB", "--wire-memory-max", str(WIRE_BYTES)),
                *("--log-level", "error"),
            ]
        )
        while not (folder / "ready").exists():
            time.sleep(0.05)
        self.address = json.loads((folder / "ready").read_text())["listen"][0]
        self.refused = 0  # How often the honest tenant found no way in.
        self.start_bytes = hostile.memory_bytes(self.process.pid)

    def token(self, tenant: str) -> str:
        """Returns a tenant's access token."""
        return (self.folder / tenant).read_text()

    def steps(self, tenant: str, seconds: float, *flags: str) -> list[str]:
        """Returns the command that runs steps for a tenant."""
        return [
            *(str(self.ctl), "--json", "--address", self.address),
            *("--tls-ca", str(self.folder / "cert")),
            *("--access-token-file", str(self.folder / tenant)),
            *("bench", "--optimizer", "sgd", "--seconds", str(seconds), *flags),
        ]

    def honest(self, seconds: float) -> tuple[float, float]:
        """Returns p50 and p99 of an honest tenant's small steps, in seconds."""
        command = self.steps("honest", seconds, "--parameters", "1000", "--tensors", "2")
        for _ in range(TRIES):
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode == 0:
                times = json.loads(run.stdout)["step_seconds"]
                return times["p50"], times["p99"]
            # It takes no connections for the moment, to stay below its ceiling.
            self.refused += 1
            time.sleep(0.2)
        raise RuntimeError(f"an honest client is not served: {run.stderr}")

    def stop(self) -> None:
        """Ends the daemon."""
        self.process.kill()
        self.process.wait()


def attack_process(house: House, name: str, who: str) -> int:
    """Starts an attack in a process of its own; returns its id."""
    if child := os.fork():
        return child
    hostile.be_humble()
    if name == GREEDY:
        command = house.steps("hostile", 600, "--parameters", "4e6", "--tensors", "20")
        os.execv(command[0], command)
    metadata = {"authorization": "Bearer " + house.token("hostile")} if who == "tenant" else {}
    tls = ssl.create_default_context(cafile=str(house.folder / "cert"))
    tls.set_alpn_protocols(["h2"])
    attack = hostile.ATTACKS[name](house.address, metadata, tls, half_step=bytes(5))
    hostile.run(attack, 600)
    os._exit(0)


def measure(programs: Path, name: str, who: str, rounds: int, seconds: float) -> None:
    """Prints a line for an attack."""
    quiet, busy = [], []
    with tempfile.TemporaryDirectory() as folder:
        house = House(programs, Path(folder))
        try:
            for _ in range(rounds):
                quiet.append(house.honest(seconds))
                child = attack_process(house, name, who)
                time.sleep(0.5)
                busy.append(house.honest(seconds))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                time.sleep(0.5)
            peak = hostile.memory_bytes(house.process.pid, "VmHWM") >> 20
            ceiling = (house.start_bytes + BASE_BYTES + WIRE_BYTES) >> 20
        finally:
            house.stop()
    p50, p99 = (statistics.median(times[i] for times in quiet) * 1e6 for i in (0, 1))
    under50, under99 = (statistics.median(times[i] for times in busy) * 1e6 for i in (0, 1))
    print(
        f"{name:26} {who:9} {peak:6} {ceiling:8} {p50:7.0f} {under50:7.0f} {under50 / p50:5.2f} "
        f"{p99:8.0f} {under99:8.0f} {under99 / p99:5.2f} {house.refused:7}",
        flush=True,
    )


def main() -> None:
    """Measures the attacks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'attack':26} {'by':9} {'peak':>6} {'ceiling':>8} {'p50':>7} {'under':>7} {'':5} "
        f"{'p99':>8} {'under':>8} {'':5} refused\n"
        f"{'':36} {'MiB':>6} {'MiB':>8} {'us':>7} {'us':>7} {'ratio':>5} "
        f"{'us':>8} {'us':>8} ratio"
    )
    programs = arguments.programs.resolve()
    for name in arguments.only or [*hostile.ATTACKS, GREEDY]:
        for who in ("tenant", "stranger"):
            if who == "tenant" or name in STRANGERS:
                measure(programs, name, who, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
