"""A GGUF file with an adapter merged into it: for adapters that llama.cpp cannot add at run time, and for other servers.

Weights that the adapter changes are written as float16 (vectors as float32), all others as they are in the base's file. Tokens that
training added enter the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tutelage.adapter import Adapter, verify
from tutelage.errors import InputError
from tutelage.training.gguf_adapter import Changes, derived_file, import_gguf, read_changes, read_header, whole_file, write_lora

if TYPE_CHECKING:
    import numpy as np

_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
_TOKENS, _KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_LORA_FILE, _MERGED_FILE = "lora-v1.gguf", "merged-v1.gguf"


def wearable_files(adapter: Adapter, gguf: Path) -> tuple[Path, Path | None]:
    """What llama.cpp is to load for an adapter: (the base itself, a LoRA file), or where that cannot be (the merged model, None).

    Made at the adapter's first use and kept in its folder. Raises `InputError` for an adapter that is damaged or cannot be worn,
    `StoreError` for a full disk.
    """
    verify(adapter)
    lora, merged = derived_file(adapter, _LORA_FILE), derived_file(adapter, _MERGED_FILE)
    if not lora.is_file() and not merged.is_file():
        header = read_header(gguf)
        changes = read_changes(adapter, header)
        if changes.only_pairs:
            write_lora(lora, header, changes, name=f"{adapter.base_name}+{adapter.id}")
        else:
            merge_gguf(adapter, gguf, merged, changes=changes)
    return (gguf, lora) if lora.is_file() else (merged, None)


def merge_gguf(
    adapter: Adapter, gguf: Path, out: Path, *, dtype: Literal["float16", "float32"] = "float16", changes: Changes | None = None
) -> Path:
    """Write the base with the adapter merged into it to `out`, whole or not at all. dtype: of the matrices that changed.

    Raises `InputError` for adapters and architectures that cannot be merged, `StoreError` for a full disk. Whether the adapter belongs to
    the base is for `check_fits` to say.
    """
    changes = changes or read_changes(adapter, read_header(gguf))
    reader = _open(gguf)
    merge = _Merge(adapter, reader, changes, dtype)
    with whole_file(out) as beside:
        merge.write(beside)
    return out


def _open(gguf: Path) -> Any:
    try:
        return import_gguf().GGUFReader(str(gguf))
    except (ValueError, IndexError, KeyError, OverflowError) as wrong:
        raise InputError(f"the GGUF file is damaged or cut off ({wrong})", file=gguf, field="model") from None


class _Merge:
    def __init__(self, adapter: Adapter, reader: Any, changes: Changes, dtype: str) -> None:
        self._adapter, self._reader, self._changes, self._dtype = adapter, reader, changes, dtype
        self._base = {tensor.name: tensor for tensor in reader.tensors}
        self._tied = _OUTPUT not in self._base
        self._check_names()

    def write(self, path: Path) -> None:
        gguf = import_gguf()
        architecture = self._reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
        writer = gguf.GGUFWriter(path, architecture)
        self._write_settings(writer, gguf, architecture)
        names = [*self._base, *([_OUTPUT] if self._needs_own_output() else [])]
        for name in names:
            self._announce(writer, name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in names:
            writer.write_tensor_data(self._value(name) if self._is_changed(name) else self._base[name].data)
        writer.close()

    def _check_names(self) -> None:
        known = {*self._base, _OUTPUT}
        for name in (*self._changes.pairs, *self._changes.whole, *self._changes.rows):
            if name not in known:
                raise InputError(f"the base has no weight `{name}`", file=self._adapter.folder, field="adapter")

    def _needs_own_output(self) -> bool:
        """Whether an output layer that the base shares with its embeddings is no longer the same."""
        changed = self._changes.pairs.keys() | self._changes.whole.keys()
        return self._tied and self._adapter.kind == "lora" and (_OUTPUT in changed or _EMBEDDINGS in self._changes.whole)

    def _is_changed(self, name: str) -> bool:
        own = self._changes
        return name in own.pairs or name in own.whole or name in own.rows or name not in self._base

    def _announce(self, writer: Any, name: str) -> None:
        import numpy as np

        if not self._is_changed(name):
            tensor = self._base[name]
            writer.add_tensor_info(name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type)
            return
        shape = self._shape(name)
        dtype = self._type_of(shape)
        writer.add_tensor_info(name, shape, np.dtype(dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize)

    def _type_of(self, shape: tuple[int, ...]) -> str:
        return "float32" if len(shape) == 1 else self._dtype

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self._changes.whole:
            return self._changes.whole[name].shape
        rows, *rest = (int(size) for size in reversed(self._base_of(name).shape))
        return (max(rows, *(number + 1 for number in self._rows(name)[0])) if self._rows(name)[0] else rows, *rest)

    def _base_of(self, name: str) -> Any:
        return self._base.get(name) or self._base[_EMBEDDINGS]

    def _rows(self, name: str) -> tuple[list[int], Any]:
        """Rows that are replaced; peft trains those of tied embeddings and output together."""
        same = _EMBEDDINGS if name == _OUTPUT and self._tied else name
        return self._changes.rows.get(same, ([], None))

    def _value(self, name: str) -> np.ndarray:
        import numpy as np

        shape = self._shape(name)
        if name in self._changes.whole:
            values = self._changes.whole[name].read()
        else:
            source = self._base_of(name)
            known = import_gguf().dequantize(source.data, source.tensor_type).reshape(-1, *shape[1:])
            values = np.zeros(shape, np.float32)
            values[: len(known)] = known
        numbers, replaced = self._rows(name)
        if numbers:
            values[numbers] = replaced
        if name in self._changes.pairs:
            low, high = self._changes.pairs[name]
            values = values + high @ low
        return np.ascontiguousarray(values, self._type_of(shape))

    def _write_settings(self, writer: Any, gguf: Any, architecture: str) -> None:
        """Those of the base, with the vocabulary as the adapter knows it."""
        changed = self._vocabulary(architecture)
        for field in self._reader.fields.values():
            if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
                continue  # the writer's own
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, changed.get(field.name, None) or field.contents(), kind, sub_type=inner)

    def _vocabulary(self, architecture: str) -> dict[str, Any]:
        added = self._added_tokens()
        if not added:
            return {}
        tokens, kinds = (list(self._reader.fields[name].contents()) for name in (_TOKENS, _KINDS))
        size = max(self._shape(_EMBEDDINGS)[0], len(tokens))
        tokens += [f"[PAD{number}]" for number in range(len(tokens), size)]
        kinds += [_UNUSED] * (size - len(kinds))
        for number, (text, special) in added.items():
            tokens[number], kinds[number] = text, _CONTROL if special else _USER_DEFINED
        return {_TOKENS: tokens, _KINDS: kinds, f"{architecture}.vocab_size": size}

    def _added_tokens(self) -> Mapping[int, tuple[str, bool]]:
        """Number -> (text, whether it is special) of the tokens that the adapter's tokenizer knows and the base's does not."""
        path = Path(self._adapter.folder) / "tokenizer.json"
        if not path.is_file():
            return {}
        tokens = self._reader.fields[_TOKENS].contents()
        said = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
        known = [(entry["id"], entry["content"], entry["special"]) for entry in said]
        return {number: (text, special) for number, text, special in known if number >= len(tokens) or tokens[number] != text}
