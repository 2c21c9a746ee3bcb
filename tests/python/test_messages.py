"""The messages that the package ships are those of the protos."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnemosyne_client import messages

TOOL = Path(__file__).parents[2] / "client" / "python" / "tools" / "generate_messages.py"


@pytest.mark.skipif(shutil.which("protoc") is None, reason="protoc is not installed")
def test_descriptors_and_stubs_are_those_of_the_protos():
    subprocess.run([sys.executable, TOOL, "--check"], check=True)


def test_a_message_survives_the_wire():
    chunk = messages.TensorChunk(parameter=3, cell=1, scale=-0.5, payload=b"\0\1")

    again = messages.TensorChunk.FromString(chunk.SerializeToString())

    assert again == chunk and again.HasField("scale") and not again.HasField("crc32c")
