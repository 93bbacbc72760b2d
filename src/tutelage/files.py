"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from tutelage.errors import StoreError


def write_atomically(path: Path, text: str) -> None:
    """Write to a neighbour and rename it. Raises `StoreError` where the disk is full or the folder cannot be written.

    Halves of surrogate pairs, which models leave behind where they were cut, are written as `?`: UTF-8 has no place for them.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(text.encode("utf-8", "replace"))
        beside.replace(path)
    except OSError as failed:
        with suppress(OSError):
            beside.unlink()
        raise StoreError(f"{path} cannot be written: {failed.strerror}. Free some space or choose another folder, then run again") from None


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files and folders of killed processes below a folder that this process alone writes to."""
    for left in [*folder.rglob(".*.part")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
