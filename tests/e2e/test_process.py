"""The daemon as a process: its start, its refusals, its end."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from e2e_daemon import DaemonProcess, binary


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary(), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = binary().with_name("mnemosynectl")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_messages_that_cannot_be_read_leave_no_line_each(own_daemon):
    daemon = own_daemon()
    with grpc.insecure_channel(daemon.tcp) as channel:
        call = channel.unary_unary("/mnemosyne.v1.OptimizerService/GetSession")
        for _ in range(50):
            with pytest.raises(grpc.RpcError):
                call(b"\x0a\x01\xff", timeout=60)
    assert daemon.stop() == 0
    assert "protobuf" not in daemon.log
    assert len(daemon.log.splitlines()) < 50


def test_a_signal_ends_it_with_0_and_leaves_no_files():
    daemon = DaemonProcess()
    socket = Path(daemon.unix[len("unix:") :])
    assert socket.is_socket()
    assert ctl("health", "--address", daemon.tcp).returncode == 0
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(timeout=60) == 0
    assert not socket.exists()
    daemon.stop()
    assert "stopped" in daemon.log


def test_a_second_signal_ends_it_at_once():
    daemon = DaemonProcess("--drain-seconds", "600")
    with grpc.insecure_channel(daemon.tcp) as channel:
        # A call that does not end holds the shutdown up. Its first answer shows that it has begun.
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", wait_for_ready=True)
        next(watch)
        started = time.monotonic()
        while daemon.process.poll() is None and time.monotonic() - started < 120:
            daemon.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert daemon.process.poll() == 3
        watch.cancel()
    daemon.stop()
    assert "second signal" in daemon.log


def test_it_says_that_a_port_is_taken():
    daemon = DaemonProcess()
    refused = run("--listen", daemon.tcp)
    assert refused.returncode == 1
    assert "already in use" in refused.stderr
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ready-file", "/nowhere/ready"], "does not exist"),
        (["--socket", "/nowhere/socket"], "does not exist"),
        (["--listen", "localhost"], "HOST:PORT"),
        (["--listen", "none"], "--socket"),
        (["--device", "tpu"], "--device"),
        (["--cell-elements", "4000000"], "--message-max"),
    ],
)
def test_it_refuses_options_that_cannot_be_met(arguments, words):
    refused = (
        run("--listen", "127.0.0.1:0", *arguments)
        if "--listen" not in arguments
        else run(*arguments)
    )
    assert refused.returncode == 1
    assert words in refused.stderr


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--queue-max", "0"], ["--isa", "sse"]])
def test_it_refuses_bad_flags(arguments):
    refused = run(*arguments)
    assert refused.returncode >= 100
    assert arguments[0] in refused.stderr + refused.stdout


def test_help_and_version_are_for_strangers():
    shown = run("--help")
    assert shown.returncode == 0
    assert "--listen HOST:PORT" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 100
    assert run("--version").stdout.startswith("mnemosyned 0.")


def test_ctl_says_that_nobody_answers():
    daemon = DaemonProcess()
    assert daemon.stop() == 0
    assert ctl("health", "--address", daemon.tcp, "--timeout", "2").returncode == 3
