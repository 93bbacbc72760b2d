"""A learned adapter for llama.cpp, made without torch: LoRA weights as a GGUF file beside the PEFT one.

The file holds, for every linear layer that was trained, the pair that llama.cpp adds to its output: `lora_a` (rank, in) and `lora_b`
(out, rank), float32, with PEFT's scale (alpha / rank) multiplied into `lora_b`. llama.cpp keeps the rows of the query and key weights of
the llama architecture in another order than transformers does, for its rotary embedding; the rows of `lora_b` follow.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tutelage.adapter import Adapter, StoredTensor, read_config, stored_tensors
from tutelage.errors import InputError, MissingExtra, StoreError
from tutelage.gguf_file import GGUF_MAGIC

if TYPE_CHECKING:
    import numpy as np

PERMUTED = {"llama": True, "qwen2": False, "qwen3": False}
"""The architectures that can wear adapters, and whether llama.cpp reorders their query and key rows."""

_UNSUPPORTED = ("use_dora", "lora_bias", "alpha_pattern", "layer_replication", "target_parameters", "megatron_config", "use_qalora")
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """What must be known of a GGUF file to put an adapter on it."""

    architecture: str
    blocks: int
    heads: int
    heads_kv: int


@dataclass(frozen=True)
class Whole:
    """A weight that is replaced: its shape, and what reads it (float32) when it is needed."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Changes:
    """What an adapter changes, by llama.cpp's names of the weights, in llama.cpp's order of rows; all float32.

    pairs: low-rank sums, (lora_a (rank, in), lora_b (out, rank) scaled). whole: weights replaced. rows: some rows of a weight replaced,
    (their numbers, their values).
    """

    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    whole: dict[str, Whole] = field(default_factory=dict)
    rows: dict[str, tuple[list[int], np.ndarray]] = field(default_factory=dict)

    @property
    def only_pairs(self) -> bool:
        """Whether llama.cpp can add them at run time; embeddings and output layers are merged, for theirs are shared or looked up."""
        return not (self.whole or self.rows or self.pairs.keys() & {"token_embd.weight", "output.weight"})


def derived_file(adapter: Adapter, name: str) -> Path:
    """Where a file made from an adapter is kept: in its folder, or, where that cannot be written, among the system's temporary files."""
    folder = Path(adapter.folder)
    if (folder / name).is_file() or os.access(folder, os.W_OK):
        return folder / name
    return Path(tempfile.gettempdir()) / f"tutelage-adapters-{os.getuid() if hasattr(os, 'getuid') else 0}" / adapter.id / name


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """What is written to the path given becomes `path` when all went well, and else nothing does. Raises `StoreError` for a full disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except OSError as failed:
        raise StoreError(f"{path} cannot be written: {failed}. Free some space or choose another folder") from None
    finally:
        beside.unlink(missing_ok=True)


def read_changes(adapter: Adapter, header: Header) -> Changes:
    """What the adapter's PEFT folder, or its whole model, changes. Raises `InputError` naming what cannot be put on a GGUF."""
    tensors = stored_tensors(Path(adapter.folder))
    translate = _Translation(header, Path(adapter.folder))
    if adapter.kind == "full":
        return Changes(whole={translate.name(name): translate.whole(name, tensor) for name, tensor in tensors.items()})
    config = read_config(Path(adapter.folder), "lora")
    _refuse_unsupported(config, adapter)
    changes = Changes()
    for name, tensor in tensors.items():
        _add_change(changes, name.removeprefix("base_model.model."), tensor, tensors, config, translate)
    return changes


def _add_change(
    changes: Changes,
    name: str,
    tensor: StoredTensor,
    tensors: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    translate: _Translation,
) -> None:
    if name.endswith(".lora_A.weight"):
        module = name.removesuffix(".lora_A.weight")
        other = tensors.get(f"base_model.model.{module}.lora_B.weight")
        if other is None:
            raise InputError(f"`{module}` has lora_A and no lora_B", file=tensor.file)
        low, high = values_of(tensor), values_of(other)
        scaled = translate.rows(f"{module}.weight", high * _scale(config, low.shape[0]))
        changes.pairs[translate.name(f"{module}.weight")] = (low, scaled)
    elif name.endswith(".trainable_tokens_delta"):
        module = name.partition(".token_adapter.")[0]
        changes.rows[translate.name(f"{module}.weight")] = (_indices(config, module), values_of(tensor))
    elif not name.endswith(".lora_B.weight"):
        changes.whole[translate.name(name)] = translate.whole(name, tensor)


def _scale(config: Mapping[str, Any], rank: int) -> float:
    """PEFT's factor of a pair."""
    alpha = float(config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _indices(config: Mapping[str, Any], module: str) -> list[int]:
    """Which rows PEFT's `trainable_token_indices` trained: for the embeddings, or by the module's name."""
    said = config["trainable_token_indices"]
    if isinstance(said, list):
        return said
    return next(indices for name, indices in said.items() if module.endswith(name))


def _refuse_unsupported(config: Mapping[str, Any], adapter: Adapter) -> None:
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if odd:
        raise InputError(
            f"an adapter with `{odd[0]}` cannot be worn by a gguf model; use it on hf:..., or train plain LoRA",
            file=adapter.folder,
            field="adapter",
        )


class _Translation:
    """From transformers' names and order of rows to llama.cpp's."""

    def __init__(self, header: Header, folder: Path) -> None:
        gguf = import_gguf()
        architectures = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
        self._names = gguf.get_tensor_name_map(architectures[header.architecture], header.blocks)
        self._header, self._folder = header, folder

    def name(self, name: str) -> str:
        """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`. Raises `InputError` where llama.cpp has no such weight."""
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(f"`{name}` has no place in a gguf model; use this adapter on hf:...", file=self._folder, field="adapter")
        return str(found)

    def whole(self, name: str, tensor: StoredTensor) -> Whole:
        """A weight that replaces the base's."""
        return Whole(tensor.shape, lambda: self.rows(name, values_of(tensor)))

    def rows(self, name: str, values: np.ndarray) -> np.ndarray:
        """The rows of each head of a query or key weight: first halves, then second halves -> pairs side by side."""
        heads = {"q_proj": self._header.heads, "k_proj": self._header.heads_kv}.get(name.split(".")[-2])
        if heads is None or not PERMUTED[self._header.architecture]:
            return values
        half = values.shape[0] // heads // 2
        return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def values_of(tensor: StoredTensor) -> np.ndarray:
    """A stored tensor as float32. Raises `InputError` for types that are no plain numbers."""
    import numpy as np

    content = tensor.read()
    if tensor.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    if tensor.dtype not in kinds:
        raise InputError(f"weights of the type {tensor.dtype} cannot be put on a gguf model", file=tensor.file)
    return np.frombuffer(content, kinds[tensor.dtype]).astype(np.float32).reshape(tensor.shape)


def write_lora(path: Path, header: Header, changes: Changes, *, name: str) -> None:
    """Write the pairs as a LoRA file of llama.cpp, whole or not at all. Raises `StoreError`."""
    import numpy as np

    gguf = import_gguf()
    with whole_file(path) as beside:
        writer = gguf.GGUFWriter(beside, header.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.General.NAME, name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        for weight, (low, high) in changes.pairs.items():  # no alpha: the scale is in lora_b
            writer.add_tensor(f"{weight}.lora_a", np.ascontiguousarray(low))
            writer.add_tensor(f"{weight}.lora_b", np.ascontiguousarray(high, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_header(gguf: Path) -> Header:
    """The architecture and sizes in a GGUF file, without reading its vocabulary. Raises `InputError` where it cannot wear adapters."""
    settings = _settings(gguf)
    architecture = _checked(str(settings.get("general.architecture")), gguf)
    heads = int(settings[f"{architecture}.attention.head_count"])
    return Header(
        architecture,
        int(settings[f"{architecture}.block_count"]),
        heads,
        int(settings.get(f"{architecture}.attention.head_count_kv", heads)),
    )


def folder_header(folder: Path) -> Header:
    """The same of a transformers folder, which llama.cpp may have as a file. Raises `InputError` where that cannot wear adapters."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        architecture, heads = str(config["model_type"]), int(config["num_attention_heads"])
        blocks, heads_kv = int(config["num_hidden_layers"]), int(config.get("num_key_value_heads") or heads)
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise InputError(f"this is no configuration of a language model ({wrong!r})", file=path, field="base") from None
    return Header(_checked(architecture, path), blocks, heads, heads_kv)


def _checked(architecture: str, file: Path) -> str:
    if architecture not in PERMUTED:
        known = ", ".join(PERMUTED)
        raise InputError(f"a gguf model of the architecture `{architecture}` cannot wear adapters; those of {known} can", file=file)
    return architecture


def _settings(gguf: Path) -> dict[str, Any]:
    """The settings in a GGUF file's head that are single values; lists, such as the vocabulary, are passed over."""
    try:
        with gguf.open("rb") as file:
            magic, version, _, count = file.read(4), _number(file, "I"), _number(file, "Q"), _number(file, "Q")
            if magic != GGUF_MAGIC or version < 2:
                raise ValueError("no GGUF file of version 2 or later")
            return {name: value for name, value in (_entry(file) for _ in range(count)) if value is not None}
    except (OSError, ValueError, KeyError, struct.error) as wrong:
        raise InputError(f"the head of this file cannot be read ({wrong}); it is damaged", file=gguf, field="model") from None


def _entry(file: BinaryIO) -> tuple[str, Any]:
    name = _text(file)
    return name, _value(file, _number(file, "I"))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _FORMATS[kind])
    inner, length = _number(file, "I"), _number(file, "Q")
    if inner in (_STRING, _ARRAY):
        skip: Callable[[], Any] = (lambda: file.seek(_number(file, "Q"), os.SEEK_CUR)) if inner == _STRING else lambda: _value(file, _ARRAY)
        for _ in range(length):
            skip()
    else:
        file.seek(length * struct.calcsize(_FORMATS[inner]), os.SEEK_CUR)
    return None


def _number(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode("utf-8", "replace")


def import_gguf() -> Any:
    """The package `gguf`. Raises `MissingExtra`."""
    try:
        import gguf
    except ImportError:
        raise MissingExtra("gguf", "pip install 'tutelage[local]'", why="a learned adapter on a gguf model") from None
    return gguf
