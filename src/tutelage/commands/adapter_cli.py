"""`tutelage adapter`: what a folder of learned weights is, and a whole model made of it for other servers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tutelage.adapter import Adapter

adapter_app = typer.Typer(
    no_args_is_help=True,
    help="Learned weights: what they are, and whole models made of them for other servers.\n\n"
    "A run keeps them in RUN/adapters/ID. An agent file wears them with `adapter: RUN/adapters/ID`.",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of learned weights, such as RUN/adapters/ID.")]


class Dtype(StrEnum):
    """Of the weights that are written."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


@adapter_app.command()
def show(folder: Folder) -> None:
    """Say what the weights were trained on and how, and whether they are whole.

    Example: tutelage adapter show runs/helpdesk/adapters/28ca13b07978a7de
    """
    from tutelage.adapter import read_adapter, verify

    adapter = read_adapter(folder)
    for line in _described(adapter):
        typer.echo(line)
    verify(adapter)
    typer.echo("whole: the content is what was saved")


@adapter_app.command()
def merge(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="FILE.gguf for llama.cpp and what is built on it, or else a folder of transformers.")],
    base: Annotated[
        str | None, typer.Option("--base", help="The model that it was trained on: a .gguf file or a folder (default: by its name).")
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")] = Dtype.FLOAT16,
) -> None:
    """Write base and learned weights as one model, which any server loads (vLLM, llama.cpp, Ollama). Only a folder needs torch.

    Example: tutelage adapter merge runs/helpdesk/adapters/28ca13b07978a7de --out helpdesk.gguf
    """
    from tutelage.adapter import read_adapter

    adapter = read_adapter(folder)
    which = base or adapter.base_name
    written = _merge_gguf(adapter, which, out, dtype) if out.suffix == ".gguf" else _merge_folder(adapter, which, out, dtype)
    typer.echo(f"{written}: {_megabytes(written):,.0f} MB")


def _merge_gguf(adapter: Adapter, which: str, out: Path, dtype: Dtype) -> Path:
    from tutelage.adapter import check_base, verify
    from tutelage.errors import InputError
    from tutelage.gguf_file import find_gguf, fingerprint
    from tutelage.training.gguf_merge import merge_gguf

    if out.exists():
        raise InputError("this is there already; name a file that is not", file=out, field="--out")
    gguf = find_gguf(which)
    check_base(adapter, gguf.name, fingerprint(gguf))
    verify(adapter)
    return merge_gguf(adapter, gguf, out, dtype=dtype.value)


def _merge_folder(adapter: Adapter, which: str, out: Path, dtype: Dtype) -> Path:
    from tutelage.training.adapters import merge_to_folder
    from tutelage.training.base import find_base

    return merge_to_folder(adapter, find_base(which), out, dtype=dtype.value)


def _described(adapter: Adapter) -> list[str]:
    from tutelage.adapter import read_config, stored_tensors

    folder = Path(adapter.folder)
    tensors = stored_tensors(folder)
    config = read_config(folder, adapter.kind)
    size = sum(tensor.end - tensor.start for tensor in tensors.values())
    rank = f"LoRA of rank {config['r']}, alpha {config['lora_alpha']:g}" if adapter.kind == "lora" else "all weights"
    return [
        f"id: {adapter.id}",
        f"what: {rank}; {len(tensors)} tensors, {size / 1e6:,.1f} MB",
        f"trained on: {adapter.base_name} (weights {adapter.base}, tokenizer {adapter.tokenizer}, chat template {adapter.template})",
        *(f"{name}: {value}" for name, value in adapter.facts.items()),
    ]


def _megabytes(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
