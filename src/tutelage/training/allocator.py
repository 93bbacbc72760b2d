"""What glibc does with freed memory.

It keeps the holes of tensors of up to 32 MB for what comes next. Training frees large tensors and keeps small ones that were made after
them: those stand in the holes, which then are too small for the next large tensor, and the process grows. Above a threshold that is set,
each tensor has pages of its own, which the system has back when it is freed. Fresh pages cost time at each use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.training.machine import has_glibc

MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of malloc.h: how large an allocation has to be for pages of its own."""
OWN_PAGES_FROM, USUAL = 256 << 10, 32 << 20
"""Bytes: with `return_memory`; and up to which the threshold grows by itself where nobody sets it."""


def return_memory(wanted: bool) -> None:
    """From now on give large tensors pages of their own; not wanted: nothing is changed."""
    if wanted and has_glibc():
        _threshold(OWN_PAGES_FROM)


@contextmanager
def returning_memory(wanted: bool) -> Iterator[None]:
    """The same while inside."""
    return_memory(wanted)
    try:
        yield
    finally:
        if wanted and has_glibc():
            _threshold(USUAL)


def _threshold(size: int) -> None:
    ctypes.CDLL(None).mallopt(ctypes.c_int(MMAP_THRESHOLD), ctypes.c_int(size))
