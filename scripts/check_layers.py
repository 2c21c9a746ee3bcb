"""Fails when a folder includes one that it may not: the house's one-way rule, as a test."""

from __future__ import annotations

import pathlib
import re
import sys

# Each place, and the places that it may include besides itself. `mnemosyne/v1` are the generated
# messages; `mnemosyne` is the public folder of the C++ client.
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "proto/codec": {"base"},
    "kernels": {"base"},
    "optim": {"base", "kernels"},
    "server/telemetry": {"base"},
    "server/security": {"base", "proto/codec", "server/telemetry"},
    "server/model": {"base", "optim", "server/telemetry"},
    "server/store": {"base"},
    "server/session": {
        "base", "proto/codec", "kernels", "optim",
        "server/model", "server/security", "server/store", "server/telemetry",
    },
    "server/config": {"base", "proto/codec"},
    "server/rpc": {
        "base", "proto/codec", "kernels", "optim", "mnemosyne/v1",
        "server/model", "server/security", "server/session", "server/telemetry",
    },
    "server": {
        "base", "proto/codec", "kernels", "optim",
        "server/config", "server/model", "server/rpc", "server/security", "server/session",
        "server/store",
        "server/telemetry",
    },
    "client/cpp": {"base", "proto/codec", "mnemosyne", "mnemosyne/v1"},
}  # fmt: skip
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def place_of(path: str) -> str | None:
    """Returns the longest place that `path` lies in, or None if it lies in none."""
    places = [*LAYERS, "mnemosyne", "mnemosyne/v1", "tests", "bench"]
    inside = [place for place in places if path.startswith(place + "/")]
    return max(inside, key=len, default=None)


def violations(root: pathlib.Path) -> list[str]:
    """Lists the includes below `root` that go the wrong way."""
    found = []
    for layer, allowed in LAYERS.items():
        for path in sorted((root / layer).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix not in SUFFIXES or place_of(name) != layer:
                continue
            for included in INCLUDE.findall(path.read_text()):
                place = place_of(included)
                if place is not None and place != layer and place not in allowed:
                    found.append(f"{name} includes {included}: {layer} may not use {place}")
    return found


def main() -> int:
    """Checks the tree given, or the one around this file."""
    default = pathlib.Path(__file__).resolve().parent.parent
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    problems = violations(root)
    print("\n".join(problems) or "layers: ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
