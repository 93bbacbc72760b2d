"""The head of a GGUF file: its settings and the shapes of its tensors, without the package `gguf` and without reading weights.

Source: the description of the format, versions 2 and 3 (github.com/ggml-org/ggml, docs/gguf.md). Lists, such as a vocabulary, are passed
over.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.errors import InputError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_MOST = 1 << 24
"""More settings, tensors or bytes of a text than this, and the file is damaged."""


def read_gguf_head(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(settings by name, without lists; shapes of tensors by name, rows first). Raises `InputError` for a damaged file."""
    try:
        with path.open("rb") as file:
            _, version, tensors, settings = _unpack(file, "4sIQQ")
            if version not in (2, 3) or max(tensors, settings) > _MOST:
                raise ValueError(f"version {version}")
            found = dict(_setting(file) for _ in range(settings))
            shapes = dict(_tensor(file) for _ in range(tensors))
    except (OSError, ValueError, struct.error, MemoryError) as wrong:
        raise InputError(f"the GGUF file is damaged or cut off ({type(wrong).__name__}: {wrong})", file=path, field="model") from None
    return {name: value for name, value in found.items() if value is not None}, shapes


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MOST:
        raise ValueError(f"a text of {length} bytes")
    return file.read(length).decode("utf-8", "replace")


def _setting(file: BinaryIO) -> tuple[str, Any]:
    name, (kind,) = _text(file), _unpack(file, "I")
    if kind == _LIST:
        _pass_over_list(file)
        return name, None
    return name, _text(file) if kind == _TEXT else _unpack(file, _form(kind))[0]


def _pass_over_list(file: BinaryIO) -> None:
    kind, count = _unpack(file, "IQ")
    if count > _MOST:
        raise ValueError(f"a list of {count}")
    if kind == _LIST:
        for _ in range(count):
            _pass_over_list(file)
    elif kind == _TEXT:
        for _ in range(count):
            file.seek(_unpack(file, "Q")[0], 1)
    else:
        file.seek(count * struct.calcsize(_form(kind)), 1)


def _form(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"a value of the kind {kind}")
    return _NUMBERS[kind]


def _tensor(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    name, (dimensions,) = _text(file), _unpack(file, "I")
    if dimensions > 8:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    shape = _unpack(file, f"{dimensions}Q")
    _unpack(file, "IQ")  # how it is quantised, and where it lies
    return name, tuple(reversed(shape))
