"""`tutelage label`: its options. It imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to label: CSV or JSON Lines with task and answer, or task, a and b.")],
    out: Annotated[Path, typer.Option("--out", metavar="LABELS", help="The file of labels (.jsonl). It is added to; several people may.")],
    annotator: Annotated[str | None, typer.Option("--annotator", metavar="NAME", help="Who labels (default: the system's user).")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="right_wrong, score or pairwise (default: by the columns).")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="OURS=THEIRS,...", help="Where to read, as id=qid,task=question,a=first,b=second.")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", metavar="LOW-HIGH", help="For scores: two digits.")] = "1-5",
    seed: Annotated[int, typer.Option("--seed", help="Of the order in which two answers are shown.")] = 0,
    skipped: Annotated[bool, typer.Option("--skipped", help="Show again what was skipped.")] = False,
) -> None:
    """Label answers in the terminal, one key each: right or wrong, a score, or which of two is better, in an order that hides which is a.

    Every label is kept at once. Quit whenever you like, and run the same command again to go on.

    Example: tutelage label answers.jsonl --out labels.jsonl --annotator anna
    """
    from tutelage.commands.label import label_file

    label_file(file, out, annotator, kind=kind, columns=columns, scale=scale, seed=seed, skipped=skipped)
