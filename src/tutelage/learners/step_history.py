"""The history that people read of a training with weights: FOLDER/history.jsonl, a line for each step and each look at held-out rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from tutelage.files import write_atomically

HISTORY = "history.jsonl"


def write_history(folder: Path, run: str, by: str, rows: Sequence[Mapping[str, JsonValue]]) -> None:
    """Put this run's rows to FOLDER/history.jsonl, in place of those that it wrote before; those of other runs stay."""
    path = folder / HISTORY
    others = [line for line in _lines(path) if json.loads(line).get("run") != run]
    own = [json.dumps({"run": run, "by": by, **row}) for row in rows]
    write_atomically(path, "".join(f"{line}\n" for line in [*others, *own]))


def as_row(*parts: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """One row of several parts; a number that is not finite is unknown (None), as JSON has none."""
    merged = {name: value for part in parts for name, value in part.items()}
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in merged.items()}


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
