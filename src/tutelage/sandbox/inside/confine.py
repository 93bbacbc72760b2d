# pathlib is slow to import, and this starts anew for every run:
# ruff: noqa: PTH100, PTH102, PTH103, PTH112, PTH114, PTH115, PTH118, PTH120, PTH123, PTH211
"""How a process gives up what it could do, for good: namespaces, a root of its own, its user, its limits, its view of files."""

from __future__ import annotations

import os
import random
import resource
import sys
from typing import Any

from tutelage.sandbox.inside import kernel, landlock, seccomp

WORK = "/sandbox"
"""The only folder that can be written to, where the process has a root of its own."""

INNER_ID = 1000
"""The user that the code sees itself as, where it is not another user anyway."""
_OUTER_IDS = range(2_000_000_000, 2_001_000_000)
_FILES = 4096
"""So many files may the folder hold."""
_OPEN_FILES = 64

Config = dict[str, Any]


def leave_namespaces(owner: bool) -> None:
    """Give the children of this process ids of their own. owner: this is root; anyone else needs a user namespace first."""
    if owner:
        kernel.unshare(kernel.CLONE_NEWPID)
        return
    user, group = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INNER_ID} {user} 1"), ("gid_map", f"{INNER_ID} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def spare_user() -> int | None:
    """An id that nobody has, of those that this machine or container knows; None where there are few."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    first, count = max(((inside, count) for inside, _, count in ranges), key=lambda pair: pair[1])
    if first + count >= _OUTER_IDS.stop:
        return random.choice(_OUTER_IDS)
    return first + count - 1 - random.randrange(count // 4) if count >= 10_000 else None


def make_root(file_mb: int, user: int) -> None:
    """Put this process into a root that holds Python read-only, an empty folder in memory, and nothing else; no network, no /proc."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    root = "/proc"  # a folder that is on every machine and holds nothing that is needed
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in readable():
        _bind(path, root)
    os.mkdir(root + WORK)
    kernel.mount(
        "tmpfs", root + WORK, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV,
        f"size={4 * file_mb}m,nr_inodes={_FILES},mode=700,uid={user},gid={user}",
    )  # fmt: skip
    kernel.swap_root(root)
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)


def readable() -> list[str]:
    """What Python needs to run: its standard library, the machine's libraries, two devices. No path stands below another."""
    prefix = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"]
    kept: list[str] = []
    for path in sorted({os.path.abspath(path) for path in [*sys.path, *prefix, *system]}):
        if os.path.lexists(path) and not any(path.startswith(above + "/") for above in kept):
            kept.append(path)
    return kept


def _bind(path: str, root: str) -> None:
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path) and os.path.dirname(path) == "/":  # /lib, /lib64: into /usr
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
    if not path.startswith("/dev/"):
        kept = os.statvfs(target).f_flag & 0x40F  # what a user namespace may not lift: nosuid, nodev, noexec, and so on
        kernel.mount(None, target, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kept)


def become(user: int) -> None:
    """Stop being root."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def limit(config: Config) -> None:
    """Set the limits on one process; they hold for each of its children too."""
    megabyte = 1 << 20
    cpu = int(-(-config["cpu_seconds"] // 1))
    limits = {
        "RLIMIT_AS": (config["memory_mb"] * megabyte,) * 2,
        "RLIMIT_CPU": (cpu, cpu + 1),  # asked to end, then made to
        "RLIMIT_FSIZE": (config["file_mb"] * megabyte,) * 2,
        "RLIMIT_NOFILE": (_OPEN_FILES,) * 2,
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
    }
    if config["processes_limit"]:
        limits["RLIMIT_NPROC"] = (config["processes_limit"],) * 2
    for name, pair in limits.items():
        if (number := getattr(resource, name, None)) is not None:
            _lower(number, pair)


def _lower(number: int, pair: tuple[int, int]) -> None:
    hard = resource.getrlimit(number)[1]
    soft_limit, hard_limit = pair if hard == resource.RLIM_INFINITY else (min(pair[0], hard), min(pair[1], hard))
    try:
        resource.setrlimit(number, (soft_limit, hard_limit))
    except (ValueError, OSError):
        if sys.platform != "darwin":  # macOS does not know every limit that it names
            raise


def lock(config: Config) -> None:
    """The last steps before code runs that nobody vouches for."""
    if config["user"] is not None:
        become(config["user"])
    limit(config)
    if not kernel.LINUX:
        return
    kernel.drop_capabilities()
    if config["landlock"]:
        landlock.close(readable(), [config["folder"], "/dev/null"])
    if config["seccomp"]:
        seccomp.close(shared=not config["namespaces"])
