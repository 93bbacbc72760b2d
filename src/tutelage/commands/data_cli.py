"""`tutelage data`: files of rows that weights learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Files of rows that weights learn from: check them, make them from a run.")


@data_app.command("check")
def data_check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows in TRL's formats: prompt-completion, messages, prompt-chosen-rejected.")
    ],
    model: Annotated[str, typer.Option("--model", help="Whose chat template and tokens: gguf:..., hf:...")],
    show: Annotated[int, typer.Option("--show", min=0, help="Show so many rows as they will be learned from.")] = 0,
    max_length: Annotated[int | None, typer.Option("--max-length", min=1, help="Refuse rows of more tokens.")] = None,
) -> None:
    """Check that every row survives the chat template, and show where the loss falls. Exit code 2: a row is refused."""
    from tutelage.commands.data import check_rows

    if not check_rows(file, model, show=show, max_length=max_length):
        raise typer.Exit(2)


@data_app.command("make")
def data_make(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/helpdesk.")],
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write.")],
    kind: Annotated[str, typer.Option("--kind", help="sft (successes), dpo (success and failure on one task), steps (for SRL).")] = "sft",
    threshold: Annotated[float, typer.Option("--threshold", help="The score from which an episode is a success.")] = 1.0,
    arm: Annotated[str | None, typer.Option("--arm", help="Only what this arm practised.")] = None,
) -> None:
    """Make rows from what a run practised; its sealed test split is never read."""
    from tutelage.commands.data import make_rows

    typer.echo(f"{make_rows(run, kind, out, threshold=threshold, arm=arm)} rows written to {out}")
