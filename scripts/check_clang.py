"""Checks with clang every C++ file of ours in a compilation database, without building it."""

from __future__ import annotations

import json
import multiprocessing.pool
import os
import pathlib
import shlex
import shutil
import subprocess
import sys


def command_of(entry: dict[str, str]) -> list[str]:
    """Returns the entry's command as a check of syntax and warnings.

    Where ccache is installed it remembers what has been checked.
    """
    words = shlex.split(entry["command"])
    start = next(i for i, word in enumerate(words) if "clang++" in word)
    kept: list[str] = [ccache] if (ccache := shutil.which("ccache")) else []
    skip = False
    for word in words[start:]:
        if skip:
            skip = False
        elif word in {"-o", "-MF", "-MT", "-MQ"}:
            skip = True
        elif word not in {"-c", "-MD", "-MMD"}:
            kept.append(word)
    return [*kept, "-fsyntax-only"]


def check(entry: dict[str, str]) -> str:
    """Returns what clang says about the entry; empty if nothing."""
    done = subprocess.run(
        command_of(entry),
        cwd=entry["directory"],
        env=os.environ | {"CCACHE_BASEDIR": os.getcwd(), "CCACHE_NOHASHDIR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def main() -> int:
    """Checks all entries of the database given whose files are not generated."""
    database = json.loads(pathlib.Path(sys.argv[1]).read_text())
    entries = [entry for entry in database if "/generated/" not in entry["file"]]
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        complaints = [text for text in pool.map(check, entries, chunksize=1) if text]
    print("\n".join(complaints) or f"clang: {len(entries)} files without a warning")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
