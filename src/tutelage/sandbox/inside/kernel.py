"""The few calls of the Linux kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import sys

LINUX = sys.platform.startswith("linux")

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def machine() -> str:
    """The processor's name as the kernel writes it; empty where this is no 64-bit Linux."""
    return os.uname().machine if LINUX and sys.maxsize > 2**32 else ""


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library; raises OSError with its name where it fails."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """Call the kernel by number; whole numbers are passed as 64 bits."""
    return call("syscall", ctypes.c_long(number), *(ctypes.c_long(item) if isinstance(item, int) else item for item in arguments))


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Change an attribute of this process."""
    call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


def unshare(flags: int) -> None:
    """Leave the namespaces that are named."""
    call("unshare", ctypes.c_int(flags))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount, bind or change a mount."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), options.encode())


def swap_root(folder: str) -> None:
    """Make a mounted folder the root, and forget the old one."""
    os.chdir(folder)
    syscall(_PIVOT_ROOT[machine()], b".", b".")
    call("umount2", b".", ctypes.c_int(MNT_DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every privilege of root that is not a matter of the user's id, for good."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
    prctl(PR_SET_NO_NEW_PRIVS, 1)
