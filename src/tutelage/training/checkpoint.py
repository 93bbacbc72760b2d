"""The state of a training run on disk, whole or not at all: the previous one is kept until the new one is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from tutelage.errors import InputError, StoreError

_NAME = re.compile(r"checkpoint-(\d{8})")
_TENSORS, _FACTS = "state.pt", "state.json"


def write_checkpoint(folder: Path, number: int, tensors: Mapping[str, Any], facts: Mapping[str, JsonValue]) -> Path:
    """Write FOLDER/checkpoint-NUMBER and remove the ones before it. tensors: what `torch.load` reads back as weights only.

    A process that is killed while it writes leaves the one before. Raises `StoreError` where it cannot be written.
    """
    place = folder / f"checkpoint-{number:08d}"
    beside = folder / f".{place.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        torch.save(dict(tensors), beside / _TENSORS)
        (beside / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        for path in beside.iterdir():
            _settle(path)
        if place.exists():  # the same number again: its state may differ
            place.rename(folder / f".{place.name}.{os.getpid()}.old")
        beside.rename(place)
        _settle(folder)
    except (OSError, RuntimeError) as failed:  # torch says RuntimeError where the disk is full
        shutil.rmtree(beside, ignore_errors=True)
        raise StoreError(f"the checkpoint {place} cannot be written: {failed}. Free some space, then run again to continue") from None
    _remove_all_but(folder, place)
    return place


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, JsonValue]] | None:
    """(tensors, facts) of the newest complete checkpoint in a folder; None where there is none. Raises `InputError` for a damaged one."""
    places = _complete(folder)
    if not places:
        return None
    place = places[-1]
    try:
        facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))
        return torch.load(place / _TENSORS, map_location="cpu", weights_only=True), facts
    except Exception as damaged:  # noqa: BLE001 (whatever unpickling meets in a damaged file)
        raise InputError(f"the checkpoint is damaged ({damaged}); remove this folder to start anew", file=place) from None


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    if not found:  # killed between two renames
        found = [path for path in folder.iterdir() if re.fullmatch(rf"\.{_NAME.pattern}\.\d+\.old", path.name)]
    return sorted(found)


def _remove_all_but(folder: Path, kept: Path) -> None:
    for path in folder.iterdir():
        if path != kept and path.name.lstrip(".").startswith("checkpoint-"):
            shutil.rmtree(path, ignore_errors=True)


def _settle(path: Path) -> None:
    """Have the system write it to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
