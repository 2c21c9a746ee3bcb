"""Fails when a program lacks a defence that release builds are made with.

usage: check_hardening.py PROGRAM ...
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

# The instruction at which an indirect call may land (control-flow enforcement). The C library's
# start-up code lacks the mark of it, so the linker leaves the program's note out; the instructions
# of our own functions are there all the same.
ENDBR64 = b"\xf3\x0f\x1e\xfa"
LANDING_PADS_MIN = 1000


def read_elf(program: pathlib.Path, *options: str) -> str:
    """Returns what readelf says."""
    return subprocess.run(
        ["readelf", "--wide", *options, program], capture_output=True, text=True, check=True
    ).stdout


def problems(program: pathlib.Path) -> list[str]:
    """Lists the defences that a program lacks."""
    headers = read_elf(program, "--file-header", "--program-headers")
    dynamic = read_elf(program, "--dynamic")
    symbols = read_elf(program, "--dyn-syms")
    stack = re.search(r"GNU_STACK.*", headers)
    run_paths = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic)
    found = {
        "is no position-independent executable": re.search(r"Type:\s+DYN", headers),
        "has a stack that can be executed": stack and "RWE" not in stack.group(),
        "has no read-only relocations (RELRO)": "GNU_RELRO" in headers,
        "binds functions late (no -z now)": "BIND_NOW" in dynamic or "NOW" in dynamic,
        "has no stack protector": "__stack_chk_fail" in symbols,
        "has no fortified calls (FORTIFY)": re.search(
            r"__\w+_chk\b", symbols.replace("__stack_chk_fail", "")
        ),
        "searches libraries outside its own folder": all(
            path.startswith("$ORIGIN") for paths in run_paths for path in paths.split(":") if path
        ),
    }
    if "X86-64" in headers:
        pads = program.read_bytes().count(ENDBR64)
        found["has no landing pads (CET)"] = pads >= LANDING_PADS_MIN
    return [f"{program} {problem}" for problem, good in found.items() if not good]


def main() -> int:
    """Checks the programs named on the command line."""
    programs = [pathlib.Path(name) for name in sys.argv[1:]]
    if not programs:
        print(__doc__, file=sys.stderr)
        return 2
    found = [problem for program in programs for problem in problems(program)]
    print("\n".join(found) or "hardening: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
