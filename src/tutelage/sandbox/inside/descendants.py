# pathlib is slow to import, and this starts anew for every run:
# ruff: noqa: PTH123, PTH208
"""What a process has started, directly and indirectly, as Linux's /proc tells it; elsewhere nothing is known."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress


def descendants(pid: int) -> list[int]:
    """The process ids of all that `pid` has started and that still exist."""
    found, seen = [pid], 0
    while seen < len(found):
        found += _children(found[seen])
        seen += 1
    return found[1:]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return children


def threads(pids: list[int]) -> int:
    """How many threads these processes have together."""
    count = 0
    for pid in pids:
        with suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/task"))
    return count


def memory(pids: list[int]) -> int:
    """Bytes that these processes hold in memory and do not share through files; what a fork still shares is counted for each."""
    pages = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = map(int, _read(f"/proc/{pid}/statm").split())
            pages += resident - shared
    return pages * os.sysconf("SC_PAGE_SIZE")


def end_all(group: int | None) -> None:
    """Kill everything that this process has started, and a process group, until nothing is left.

    Everything is stopped before it is killed, so that nothing starts more while others die.
    """
    for _ in range(50):
        if group is not None:
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        started = descendants(os.getpid())
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in started:
                with suppress(OSError):
                    os.kill(pid, number)
        if not _reap() and not started:
            return
        time.sleep(0.002)  # the kernel has to bury them


def _reap() -> bool:
    """Collect what has ended; True where anything is left."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
