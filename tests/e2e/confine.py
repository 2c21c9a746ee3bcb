"""Runs a program as a service manager's sandbox would: a launcher for test_sandbox.py, as root.

usage: python confine.py FOLDER SYSTEM_CALLS UID PROGRAM ARGUMENT...

The program has no capability and the user UID; it can write in FOLDER alone; of /proc it sees its
own part; and it dies at the first system call that is not among SYSTEM_CALLS, numbers with commas.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 24, 38, 22
SECCOMP_MODE_FILTER = 2
ARCHITECTURE_X86_64 = 0xC000003E
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
CAPABILITY_COUNT = 41

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raises OSError for a call that failed."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Calls mount(2)."""
    texts = (text.encode() for text in (source, target, kind))
    check(libc.mount(*texts, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def hide_files(folder: str) -> None:
    """Leaves `folder` to be written, and a /proc of processes alone."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount(folder, folder, "", MS_BIND)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid,hidepid=invisible")
    mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY)


def filter_system_calls(numbers: list[int]) -> None:
    """Lets only these system calls pass, from now on."""

    def instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, otherwise, value)

    program = [instruction(LOAD, 4), instruction(JUMP_IF_EQUAL, ARCHITECTURE_X86_64, 1)]
    program += [instruction(RETURN, KILL), instruction(LOAD, 0)]
    for number in numbers:
        program += [instruction(JUMP_IF_EQUAL, number, 0, 1), instruction(RETURN, ALLOW)]
    program.append(instruction(RETURN, KILL))
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def main() -> None:
    """Confines itself, and becomes the program."""
    folder, calls, uid, *command = sys.argv[1:]
    hide_files(folder)
    for capability in range(CAPABILITY_COUNT):
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "capability")
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.environ.clear()
    filter_system_calls([int(number) for number in calls.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
