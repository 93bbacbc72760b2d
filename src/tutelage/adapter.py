"""The weights that an agent has learned: a folder, named by the hash of what is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from tutelage.errors import InputError
from tutelage.records import Record, content_id

MANIFEST = "adapter.json"
"""The file that makes a folder an adapter."""

_INERT = {
    "lora": frozenset(
        {"auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version", "revision"}
    ),
    "full": frozenset({"_name_or_path", "transformers_version", "use_cache", "quantization_config"}),
}
"""What a configuration says that does not change what the weights compute."""

_CONFIGS = {"lora": "adapter_config.json", "full": "config.json"}


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


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file: `start` and `end` in bytes from the file's beginning, little-endian, row by row."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> bytes:
        """Its bytes. Raises `InputError` where the file is shorter than it says."""
        with self.file.open("rb") as opened:
            opened.seek(self.start)
            content = opened.read(self.end - self.start)
        if len(content) != self.end - self.start:
            raise InputError("the file is cut short", file=self.file)
        return content


def read_adapter(folder: str | Path) -> Adapter:
    """The adapter in a folder, wherever it was moved to. Raises `InputError` where there is none or its manifest cannot be read."""
    path = Path(folder) / MANIFEST
    try:
        found = Adapter.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no adapter here (no {MANIFEST}); training writes them to RUN/adapters/", file=folder) from None
    except (OSError, UnicodeError) as unreadable:
        raise InputError(f"this manifest cannot be read ({unreadable}); copy the adapter again", file=path) from None
    except ValidationError as invalid:
        first = invalid.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"this is no manifest of an adapter: {first['msg']}", file=path, field=place or None) from None
    return found.model_copy(update={"folder": str(Path(folder).absolute())})


@dataclass(frozen=True)
class FoundAdapter:
    """A folder that is an adapter's, or was. adapter: None where its manifest cannot be read. damage: what is wrong with it, if anything.

    size: of its tensors, in bytes. when: its manifest was written, in seconds since 1970 (a copy may keep that time or not).
    """

    folder: Path
    adapter: Adapter | None
    damage: str | None
    size: int
    when: float


def find_adapters(*folders: str | Path, whole: bool = True) -> list[FoundAdapter]:
    """All adapters in folders and below them, such as runs; the newest first. A damaged one is among them, with the reason.

    whole: read every weight to see whether it is the one that was saved. Raises `InputError` for a folder that is not there.
    """
    manifests: dict[Path, None] = {}
    for each in folders:
        folder = Path(each)
        if not folder.is_dir():
            raise InputError("no such folder; name a run, or a folder of runs", file=folder)
        inside = (path for path in sorted(folder.rglob(MANIFEST)) if not _is_hidden(path.relative_to(folder)))
        manifests.update(dict.fromkeys(path.absolute() for path in inside))
    return sorted((_found(path.parent, whole=whole) for path in manifests), key=lambda one: (-one.when, str(one.folder)))


def _is_hidden(path: Path) -> bool:
    """Whether it lies in a folder that somebody is still writing."""
    return any(part.startswith(".") for part in path.parts[:-1])


def _found(folder: Path, *, whole: bool) -> FoundAdapter:
    adapter, damage, size = None, None, 0
    when = (folder / MANIFEST).stat().st_mtime
    try:
        adapter = read_adapter(folder)
        size = sum(tensor.end - tensor.start for tensor in stored_tensors(folder).values())
        if whole:
            verify(adapter)
    except (InputError, OSError) as wrong:
        damage = str(wrong)
    return FoundAdapter(folder, adapter, damage, size, when)


def as_adapter(value: Any) -> Any:
    """A folder's path becomes the adapter in it; everything else is returned as it is."""
    return read_adapter(value) if isinstance(value, str | Path) else value


def adapter_id(folder: Path, kind: Literal["lora", "full"], *, base: str, tokenizer: str, template: str) -> str:
    """The id of the tensors in a folder (names, types, shapes, bytes) with the settings that they need and what they belong to.

    Raises `InputError` where the folder does not hold them, or not whole.
    """
    config = read_config(folder, kind)
    relevant = {name: value for name, value in config.items() if name not in _INERT[kind] and value is not None}
    return content_id({"kind": kind, "base": base, "tokenizer": tokenizer, "template": template, **_hashed(folder), "config": relevant})


def verify(adapter: Adapter) -> None:
    """Raises `InputError` where the weights, their settings or the manifest are not those that were saved: damaged, edited or cut short."""
    folder = Path(adapter.folder)
    found = adapter_id(folder, adapter.kind, base=adapter.base, tokenizer=adapter.tokenizer, template=adapter.template)
    if found != adapter.id:
        raise InputError(
            f"the adapter is not the one that was saved: its content has the hash {found} and its manifest says {adapter.id}. "
            "It was damaged or edited; copy it again, or train it again",
            file=folder,
        )


def check_base(adapter: Adapter, name: str, base_id: str) -> None:
    """Raises `InputError` where the adapter was trained on other weights than these; says both."""
    if adapter.base != base_id:
        raise InputError(
            f"the adapter was trained on {adapter.base_name} (weights {adapter.base}), and the model is {name} (weights {base_id}); "
            "name the model that it was trained on, or train anew",
            file=adapter.folder,
            field="adapter",
        )


def read_config(folder: Path, kind: Literal["lora", "full"]) -> dict[str, Any]:
    """The configuration of an adapter: PEFT's, or for a full one the model's. Raises `InputError`."""
    path = folder / _CONFIGS[kind]
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise InputError(f"the adapter's configuration cannot be read ({wrong}); copy the adapter again", file=path) from None
    return config


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all safetensors files in a folder, by name. Raises `InputError` where there are none or a file is damaged."""
    found: dict[str, StoredTensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(_tensors_in(file))
    if not found:
        raise InputError("there are no weights here (no .safetensors file); copy the adapter again", file=folder)
    return found


def _tensors_in(file: Path) -> dict[str, StoredTensor]:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: Mapping[str, Any] = json.loads(opened.read(length))
        begin = 8 + length
        return {
            name: StoredTensor(file, info["dtype"], tuple(info["shape"]), *(begin + offset for offset in info["data_offsets"]))
            for name, info in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise InputError(f"this safetensors file is damaged ({wrong}); copy the adapter again", file=file) from None


def _hashed(folder: Path) -> dict[str, str]:
    """The hash of the tensors, and, where tokens were added, that of the tokenizer which knows them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(stored_tensors(folder).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.read())
    hashes = {"tensors": digest.hexdigest()}
    tokenizer = folder / "tokenizer.json"
    return {**hashes, "added_tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest()} if tokenizer.is_file() else hashes
