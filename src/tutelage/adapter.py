"""The weights that an agent has learned: a folder, named by the hash of what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from tutelage.errors import InputError
from tutelage.records import Record

MANIFEST = "adapter.json"
"""The file that makes a folder an adapter."""


class Adapter(Record):
    """Weights learned on top of a base model.

    id: 16 hex digits of the hash of the learned tensors and of what they belong to. kind: `lora` (a PEFT folder), or `full` (the whole
    model's folder). base, tokenizer, template: hashes of the base's weights, of its tokenizer and of its chat template; an adapter is used
    with the very same ones only. base_name: for people. folder: where it lies; no part of what it is. facts: how it was made (learner,
    settings, hash of the data, study).
    """

    id: str
    kind: Literal["lora", "full"] = "lora"
    base: str
    base_name: str
    tokenizer: str
    template: str
    folder: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)


def read_adapter(folder: str | Path) -> Adapter:
    """The adapter in a folder, wherever it was moved to. Raises `InputError` where there is none or its manifest cannot be read."""
    path = Path(folder) / MANIFEST
    try:
        found = Adapter.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no adapter here (no {MANIFEST}); training writes them to RUN/adapters/", file=folder) from None
    except ValidationError as invalid:
        first = invalid.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"this is no manifest of an adapter: {first['msg']}", file=path, field=place or None) from None
    return found.model_copy(update={"folder": str(Path(folder).absolute())})


def as_adapter(value: Any) -> Any:
    """A folder's path becomes the adapter in it; everything else is returned as it is."""
    return read_adapter(value) if isinstance(value, str | Path) else value
