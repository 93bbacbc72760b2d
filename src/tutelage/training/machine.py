"""What this machine has for training: a GPU or not, memory, number formats, optional packages. torch is asked about a GPU only."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

OPTIONAL = ("bitsandbytes", "flash-attn", "cut-cross-entropy")
"""Packages that levers need."""
_UNLIMITED = 1 << 60
"""A cgroup without a limit says about so many bytes, or `max`."""


@dataclass(frozen=True)
class Machine:
    """Where a training would run.

    kind: of the device. name: for people. memory: bytes that a process may have in all, its own included: of the GPU where there is one,
    else of main memory. host_memory: the same of main memory (of a CPU it is `memory`). capability: of the GPU's kernels, as (8, 0).
    bfloat16: whether it multiplies such matrices in hardware. glibc: the C library is GNU's. packages: version by name, of those in
    `OPTIONAL` that are installed.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    name: str = "CPU"
    memory: int = 0
    host_memory: int = 0
    capability: tuple[int, int] | None = None
    bfloat16: bool = False
    glibc: bool = True
    packages: dict[str, tuple[int, ...]] = field(default_factory=dict)


def this_machine() -> Machine:
    """The machine that this process runs on."""
    packages = {name: found for name in OPTIONAL if (found := installed(name)) is not None}
    host = main_memory()
    card: Any = _cuda() if _may_have_a_gpu() else None
    if card is None:
        return Machine(
            "cpu", platform.processor() or "CPU", host, host, bfloat16=_multiplies_bfloat16(), glibc=has_glibc(), packages=packages
        )
    free, _ = card.mem_get_info()
    return Machine(
        kind="cuda",
        name=str(card.get_device_name()),
        memory=int(free) + int(card.memory_reserved()),
        host_memory=host,
        capability=card.get_device_capability(),
        bfloat16=bool(card.is_bf16_supported()),
        packages=packages,
    )


def has_glibc() -> bool:
    """Whether the C library is GNU's, which can be told when to give memory back."""
    return platform.libc_ver()[0] == "glibc"


def installed(name: str) -> tuple[int, ...] | None:
    """The version of an installed package as numbers; None where it is absent."""
    try:
        return tuple(int(part) for part in re.findall(r"\d+", version(name))[:3])
    except PackageNotFoundError:
        return None


def main_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that this process may have in all: what is free within the machine and its cgroup, and what it has already."""
    try:
        own = own_memory(proc)
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration, IndexError):
        return _all_memory()
    return min(free, _left_in_cgroup(cgroup)) + own


def own_memory(proc: Path = Path("/proc")) -> int:
    """Bytes of main memory that this process has. Raises `OSError` where the system does not say."""
    return int((proc / "self" / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _left_in_cgroup(folder: Path) -> int:
    """What the limit of a cgroup leaves (version 2, or 1); the files that it caches give way. Without a limit: endless."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = int((folder / limit).read_text()), int((folder / used).read_text())
            statistics = (folder / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # absent, or `max`
            continue
        gives_way = sum(int(line.split()[1]) for line in statistics if line.split()[:1] == [cached])
        return max(0, most - now + gives_way) if most < _UNLIMITED else _UNLIMITED
    return _UNLIMITED


def _all_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _may_have_a_gpu() -> bool:
    """Whether it is worth loading torch to ask: on Linux a GPU that it can use has a file."""
    if sys.platform != "linux" or "torch" in sys.modules:
        return True
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def _cuda() -> Any:
    """torch.cuda, where it finds a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda if torch.cuda.is_available() else None


def _multiplies_bfloat16() -> bool:
    """As `base.cpu_multiplies_bfloat16`, by what the system says of the processor."""
    try:
        return "amx_bf16" in set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
