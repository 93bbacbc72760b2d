"""`tutelage adapter`: learned weights as things to list, compare, combine and hand on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

adapter_app = typer.Typer(
    no_args_is_help=True,
    help="Learned weights: list, compare, combine, fold into a whole model, convert for other programs.\n\n"
    "A run keeps them in RUN/adapters/ID. An agent file wears them with `adapter: RUN/adapters/ID`.",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of learned weights, such as RUN/adapters/ID.")]
Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Two or more folders of learned weights.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="The model that it was trained on: a .gguf file or a folder (default: by its name).")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, one object a line.")]


class Dtype(StrEnum):
    """Of the weights that are written."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Target(StrEnum):
    """What a LoRA adapter can be converted to."""

    GGUF = "gguf"
    PEFT = "peft"


@adapter_app.command("list")
def list_(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER...]", help="Runs, or folders of them (default: runs).")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the weights to see whether they are whole.")] = False,
    as_json: AsJson = False,
) -> None:
    """List all learned weights below folders: what made them, which agents wear them, and which are damaged.

    Example: tutelage adapter list runs/helpdesk
    """
    from tutelage.commands.adapters import list_adapters

    list_adapters(folders or [], whole=not no_verify, as_json=as_json)


@adapter_app.command()
def show(folder: Folder) -> None:
    """Say what the weights were trained on and how, and whether they are whole.

    Example: tutelage adapter show runs/helpdesk/adapters/28ca13b07978a7de
    """
    from tutelage.adapter import read_adapter, verify
    from tutelage.commands.adapters import describe

    adapter = read_adapter(folder)
    for line in describe(adapter):
        typer.echo(line)
    verify(adapter)
    typer.echo("whole: the content is what was saved")


@adapter_app.command()
def compare(
    first: Folder,
    second: Folder,
    base: BaseOption = None,
    top: Annotated[int, typer.Option("--top", min=0, help="So many layers, those that differ most first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare two: their settings, and what they add to each layer (lengths, cosine, difference, overlap of the spaces they use).

    How well each does its work is for `tutelage eval` to say. Of two LoRA adapters the base is not read.

    Example: tutelage adapter compare runs/a/adapters/28ca13b07978a7de runs/b/adapters/93f0c1d2a4b57e68
    """
    from tutelage.commands.adapters import print_comparison

    print_comparison(first, second, base=base, top=top, as_json=as_json)


@adapter_app.command()
def combine(
    folders: Folders,
    out: Annotated[Path, typer.Option("--out", help="The adapter is written to OUT/ID.")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W,W...", help="One for each, as 0.7,0.3 (default: the mean).")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="cat (the exact sum; ranks add up), svd (the nearest of one rank), linear, ties, dare_linear, dare_ties, magnitude_prune, "
            "or one of the last four with _svd.",
        ),
    ] = "cat",
    density: Annotated[float | None, typer.Option("--density", help="The share of entries that ties, dare and prune keep.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of the outcome of svd (default: the largest of the adapters').")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what dare draws.")] = 0,
) -> None:
    """Combine LoRA adapters of one model into one, by peft; the base is not needed. Evaluate it before you trust it.

    Example: tutelage adapter combine runs/a/adapters/28ca13b07978a7de runs/b/adapters/93f0c1d2a4b57e68 --weights 0.7,0.3 --out merged
    """
    from tutelage.commands.adapters import combine_folders
    from tutelage.training.adapter_arithmetic import Combination

    how = Combination(method=method, weights=_numbers(weights), density=density, rank=rank, seed=seed)
    combine_folders(folders, out, how)


@adapter_app.command()
def fold(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="FILE.gguf for llama.cpp and what is built on it, or else a folder of transformers.")],
    base: BaseOption = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights; bfloat16 for a folder only.")] = Dtype.FLOAT16,
) -> None:
    """Fold learned weights into their base: one model, which any server loads (vLLM, llama.cpp, Ollama). Only a folder needs torch.

    Example: tutelage adapter fold runs/helpdesk/adapters/28ca13b07978a7de --out helpdesk.gguf
    """
    from tutelage.adapter import read_adapter
    from tutelage.commands.adapters import written
    from tutelage.training.adapter_files import fold_adapter

    typer.echo(written(fold_adapter(read_adapter(folder), out, base=base, dtype=dtype.value)))


@adapter_app.command()
def convert(
    folder: Folder,
    to: Annotated[Target, typer.Option("--to", help="gguf: a LoRA file of llama.cpp. peft: a folder for PeftModel.from_pretrained.")],
    out: Annotated[Path, typer.Option("--out", help="The file or folder to write.")],
    base: BaseOption = None,
) -> None:
    """Convert a LoRA adapter for other programs; it stays apart from its base, which those programs load beside it.

    Example: tutelage adapter convert runs/helpdesk/adapters/28ca13b07978a7de --to gguf --out helpdesk-lora.gguf
    """
    from tutelage.adapter import read_adapter
    from tutelage.commands.adapters import written
    from tutelage.training.adapter_files import convert_adapter

    typer.echo(written(convert_adapter(read_adapter(folder), to.value, out, base=base)))


def _numbers(text: str | None) -> tuple[float, ...] | None:
    from tutelage.errors import InputError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"`{text}` is no list of numbers; write one for each adapter, as 0.7,0.3", field="--weights") from None
