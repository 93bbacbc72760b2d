"""`tutelage judge`: its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

judge_app = typer.Typer(
    no_args_is_help=True,
    help="Judges that people can trust: calibrate a judge on labels of people, audit it while it is in use, and report on it.\n\n"
    "A calibrated judge decides only where it is sure enough; there it agrees with people at least 1 - alpha of the time, with "
    "probability 1 - delta. Elsewhere it abstains, which is never a score of 0.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="What `calibrate` wrote, such as judge.json.")]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="OURS=THEIRS,...",
        help="How the file calls our id, task, answer (or a and b), label, annotator and reference, as id=qid,label=verdict. "
        "Where each person has a column: label=ann|bob.",
    ),
]
KindOption = Annotated[str | None, typer.Option("--kind", help="right_wrong, score or pairwise (default: by the columns).")]


@judge_app.command()
def calibrate(  # noqa: PLR0913, PLR0917 -- a command's options are its arguments
    judge: Annotated[Path, typer.Argument(metavar="JUDGE.yaml", help="The judge, or the levels of a cascade.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="What people say: JSON Lines, CSV or TSV; see `tutelage label`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the certificate goes.")] = Path("judge.json"),
    alpha: Annotated[float, typer.Option("--alpha", help="Disagreement with people that is allowed where it decides.")] = 0.1,
    delta: Annotated[float, typer.Option("--delta", help="Probability with which the promise may fail.")] = 0.1,
    min_items: Annotated[int | None, typer.Option("--min-items", help="Items a threshold needs (default: 30 or more, by alpha).")] = None,
    columns: Columns = None,
    values: Annotated[
        str | None, typer.Option("--values", metavar="THEIRS=OURS,...", help="How labels are written, as left=a,right=b.")
    ] = None,
    kind: KindOption = None,
    domain: Annotated[str | None, typer.Option("--domain", help="What kind of items these are; it is part of the promise.")] = None,
    calls: Annotated[int | None, typer.Option("--calls", min=1, help="Stop after so many model calls; running again goes on.")] = None,
    usd: Annotated[float | None, typer.Option("--usd", help="Stop after so many US dollars; running again goes on.")] = None,
) -> None:
    """Find the confidence from which a judge says what people say, and promise it.

    JUDGE.yaml holds the model, the criteria in plain words, and where the confidence comes from:

        model: gguf:smollm2-135m
        criteria: The answer is right.
        confidence: token          (or stated, or votes)
        annotators: {n: 3, k: 3}   (simulate people, by examples from the labels)

    `kind: pairs` compares two answers. For a cascade, `levels` lists what differs: levels: [{}, {model: "endpoint:big"}]. Choose alpha
    and delta before you look. Where nothing can be promised, the judge abstains always.

    Interrupted? Run the same command again: what the models said is kept.

    Example: tutelage judge calibrate judge.yaml labels.csv --alpha 0.1 --delta 0.1 --out judge.json
    """
    from tutelage.commands.judge import Ask, LabelFile, calibrate_judge

    calibrate_judge(judge, LabelFile(labels, columns, values, kind), out, Ask(alpha, delta, min_items, domain, calls, usd))


@judge_app.command()
def audit(
    file: FileArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A run in which the judge graded (its folder, store or URL), or a file of new items.")
    ],
    rate: Annotated[float, typer.Option("--rate", help="Share of the accepted verdicts that people look at.")] = 0.1,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="LABELS", help="People answer by `tutelage label`, in this file.")
    ] = None,
    inbox: Annotated[
        str | None, typer.Option("--inbox", metavar="RUN", help="People answer in this inbox (default: the run's own).")
    ] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Refuse where the judge was calibrated on items of another kind.")] = None,
    columns: Columns = None,
    kind: KindOption = None,
) -> None:
    """Let people check a random sample of what the judge decides, and withdraw its certificate where it breaks its promise.

    Each time: takes in what people have answered since, tests the promise, draws from what is new, and asks people about it. The sample is
    drawn by a hash, so that nobody can choose it; people are not told what the judge says. The test may be looked at as often as you like:
    a judge that keeps its promise is withdrawn with probability delta at most, for ever. A judge that was withdrawn is refused by every
    command and study.

    Of a file of items the judge is asked about those that are drawn, and people label them in a file.

    Exit codes: 0 the promise stands, 1 the certificate is withdrawn, 2 wrong input.

    Example: tutelage judge audit judge.json runs/helpdesk --rate 0.05
    """
    from tutelage.commands.judge import LabelFile
    from tutelage.commands.judge_audit import audit_judge

    items = LabelFile(Path(source), columns, None, kind)
    if not audit_judge(file, source, rate=rate, labels=labels, inbox=inbox, domain=domain, items=items):
        raise typer.Exit(1)


@judge_app.command()
def report(
    file: FileArgument,
    html: Annotated[Path | None, typer.Option("--html", metavar="PAGE", help="Also write a page with plots, which opens offline.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Also say what each level decided in this run, and what it cost there.")
    ] = None,
) -> None:
    """Say all that is known of a calibrated judge: what is promised and what not, on what evidence, and whether it still stands.

    Shows confidence against agreement, the walk to the threshold (on the page), biases with intervals, and the audits so far.

    Example: tutelage judge report judge.json --html judge.html
    """
    from tutelage.commands.judge import report_judge

    report_judge(file, html, run)
