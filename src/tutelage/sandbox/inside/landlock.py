"""Rules on files that need no privileges (Landlock, Linux 5.13 and later): what is not named here cannot be read, written or listed."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from tutelage.sandbox.inside import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_BELOW_FOLDER = 1
_SCOPES = 3  # no signals to, and no abstract sockets of, processes outside


def version() -> int:
    """Which version of the rules the kernel has; raises OSError where it has none."""
    return kernel.syscall(_CREATE, None, 0, 1)


def close(read: Iterable[str], write: Iterable[str]) -> None:
    """Let this process and its children read below `read`, do anything with files below `write`, and touch no other file, for good."""
    newest = version()
    everything = (1 << (13 if newest < 2 else 14 if newest < 3 else 15 if newest < 5 else 16)) - 1
    fields = struct.pack("=QQQ", everything, 0, _SCOPES if newest >= 6 else 0)
    rules = kernel.syscall(_CREATE, fields, 8 if newest < 4 else 16 if newest < 6 else 24, 0)
    for path in read:
        _allow(rules, path, _READ | _LIST | _EXECUTE)
    for path in write:
        _allow(rules, path, everything)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.syscall(_RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        access &= _EXECUTE | _WRITE | _READ
    kernel.syscall(_ADD, rules, _BELOW_FOLDER, struct.pack("=Qi", access, place), 0)
    os.close(place)
