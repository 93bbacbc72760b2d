"""Adapters made into what other programs load: folded into their base, or as a file of llama.cpp or a folder of peft."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tutelage.adapter import MANIFEST, Adapter, check_base, read_config, verify
from tutelage.errors import InputError, StoreError
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint
from tutelage.training.adapters import merge_to_folder
from tutelage.training.base import find_base
from tutelage.training.gguf_adapter import Header, folder_header, read_changes, read_header, write_lora
from tutelage.training.gguf_merge import merge_gguf

DType = Literal["float16", "bfloat16", "float32"]
_OURS = (MANIFEST, "README.md")


def fold_adapter(adapter: Adapter, out: Path, *, base: str | None = None, dtype: DType = "float16") -> Path:
    """Write base and adapter as one model (peft's `merge_and_unload`), whole or not at all; an agent wears it as `gguf:OUT` or `hf:OUT`.

    out: FILE.gguf, which needs no torch, or else a folder of transformers. base: the model it was trained on, a .gguf file or a folder
    (None: by its name). dtype: of matrices; a GGUF has no bfloat16 here. Raises `InputError` where `out` is there already, the adapter is
    damaged, is not the base's or cannot be folded; `StoreError` for a full disk.
    """
    _check_free(out)
    which = base or adapter.base_name
    if out.suffix != ".gguf":
        return merge_to_folder(adapter, find_base(which), out, dtype=dtype)
    if dtype == "bfloat16":
        raise InputError("a .gguf file is written in float16 or float32", field="dtype")
    gguf = find_gguf(which)
    check_base(adapter, gguf.name, fingerprint(gguf))
    verify(adapter)
    return merge_gguf(adapter, gguf, out, dtype=dtype)


def convert_adapter(adapter: Adapter, to: Literal["gguf", "peft"], out: Path, *, base: str | None = None) -> Path:
    """Write a LoRA adapter for other programs, still without its base, whole or not at all.

    to: `gguf`, a file that llama.cpp adds to the base's (`--lora FILE`), in float32; or `peft`, a folder that `PeftModel.from_pretrained`
    loads, whose configuration names `base` as the model. base: for `gguf` the model it was trained on, a .gguf file or a folder, of which
    the settings are read (None: by its name). Raises `InputError` where `out` is there already, the adapter is damaged or what it holds has
    no place there; `StoreError`.
    """
    _check_free(out)
    verify(adapter)
    if adapter.kind != "lora":
        raise InputError("all weights were trained here: this is a model, and `fold` writes it as others load it", file=adapter.folder)
    if to == "peft":
        return _write_peft(adapter, out, base)
    header = _header(adapter, base or adapter.base_name)
    changes = read_changes(adapter, header)
    if not changes.only_pairs:
        words = "llama.cpp adds to linear layers only, and this adapter changes embeddings or the output layer; `fold` it into a .gguf file"
        raise InputError(words, file=adapter.folder)
    write_lora(out, header, changes, name=f"{adapter.base_name}+{adapter.id}")
    return out


def _check_free(out: Path) -> None:
    if out.exists():
        raise InputError("this is there already; name what is not", file=out, field="out")


def _header(adapter: Adapter, which: str) -> Header:
    """The settings of the adapter's base. Raises `InputError` where it is another."""
    path = Path(which).expanduser()
    if which != SMOLLM and path.is_dir():
        base = find_base(which)
        check_base(adapter, base.name, base.base_id)
        return folder_header(base.folder)
    gguf = find_gguf(which)
    check_base(adapter, gguf.name, fingerprint(gguf))
    return read_header(gguf)


def _write_peft(adapter: Adapter, out: Path, base: str | None) -> Path:
    """The folder without what is ours, and with the base under the name that it has elsewhere."""
    config = {**read_config(Path(adapter.folder), "lora"), "base_model_name_or_path": base or adapter.base_name}
    with _whole_folder(out) as beside:
        for path in Path(adapter.folder).iterdir():
            if path.is_file() and path.name not in _OURS and path.suffix != ".gguf" and not path.name.startswith("."):
                shutil.copyfile(path, beside / path.name)
        (beside / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return out


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """What is written to the folder given becomes `out` when all went well, and else nothing does. Raises `StoreError`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".converting-", dir=out.parent))
        try:
            yield beside
            beside.chmod(0o755)
            beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as failed:
        raise StoreError(f"{out} cannot be written: {failed}. Free some space or choose another folder") from None
