"""`tutelage judge calibrate` and `report`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.text import Text

from tutelage.budget import Budget
from tutelage.collector import Collector
from tutelage.commands.judge_page import write_page
from tutelage.commands.judge_runs import run_rows
from tutelage.commands.judge_view import audit_rows, print_agreement, print_certificates, print_rows
from tutelage.errors import InputError
from tutelage.experience.store import Store
from tutelage.grader import FunctionGrader
from tutelage.graders.calibrated_judge import CalibratedJudge, calibrate
from tutelage.graders.cascade import Cascade, calibrate_cascade
from tutelage.graders.certificate import AnyJudge, Certificate, Rule, kind_of_file, read_certificates, remade, require_same
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_file import Made, read_judges
from tutelage.graders.labels import KNOWN, Item, Kind, Labelled, read_items, read_labelled
from tutelage.graders.monitored import Trail
from tutelage.progress import Bars, Progress
from tutelage.suggest import unknown

KINDS: tuple[Kind, ...] = ("right_wrong", "score", "pairwise")


@dataclass(frozen=True)
class LabelFile:
    """A file of labels and how to read it. columns: as `id=qid,a=first,label=ann|bob`; values: as `left=a,right=b`."""

    path: Path
    columns: str | None = None
    values: str | None = None
    kind: str | None = None

    def read(self) -> tuple[Labelled, ...]:
        """The labels. Raises `InputError`."""
        return read_labelled(self.path, self._columns(), kind=kind_named(self.kind), values=pairs_in(self.values or "", "--values"))

    def items(self) -> tuple[Item, ...]:
        """The items, labelled or not. Raises `InputError`."""
        columns = {ours: theirs for ours, theirs in (self._columns() or {}).items() if ours != "label"} or None
        return read_items(self.path, columns, kind=kind_named(self.kind))

    def _columns(self) -> dict[str, str | list[str]] | None:
        return None if self.columns is None else columns_of(self.columns)


def columns_of(text: str) -> dict[str, str | list[str]]:
    """`id=qid,label=ann|bob` as a mapping. Raises `InputError`."""
    found: dict[str, str | list[str]] = {}
    for ours, theirs in pairs_in(text, "--columns").items():
        if ours not in KNOWN:
            raise InputError(unknown("a field of a labelled item", ours, KNOWN), field="--columns")
        found[ours] = [name.strip() for name in theirs.split("|")] if "|" in theirs else theirs
    return found


def pairs_in(text: str, option: str) -> dict[str, str]:
    """`a=b,c=d` as a mapping. Raises `InputError` naming the option."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    for left, equals, right in parts:
        if not (left.strip() and equals and right.strip()):
            raise InputError(f"write NAME=VALUE,NAME=VALUE; this part cannot be read: `{left}{equals}{right}`", field=option)
    return {left.strip(): right.strip() for left, _, right in parts}


def kind_named(kind: str | None) -> Kind | None:
    """The kind of label of that name. Raises `InputError`."""
    found = next((known for known in KINDS if known == kind), None)
    if kind is not None and found is None:
        raise InputError(unknown("a kind of label", kind, KINDS), field="--kind")
    return found


# calibrating


@dataclass(frozen=True)
class Ask:
    """What is to be promised, and what it may cost."""

    alpha: float
    delta: float
    min_items: int | None = None
    domain: str | None = None
    calls: int | None = None
    usd: float | None = None


class _Options(TypedDict):
    """What both ways of calibrating take."""

    min_items: int | None
    rule: Rule
    domain: str
    progress: Progress


def calibrate_judge(judge: Path, labels: LabelFile, out: Path, ask: Ask) -> CalibratedJudge | Cascade:
    """Calibrate, keep the certificate, and print it. What the models said is kept beside it, so that an interrupted run goes on.

    Raises `InputError` before anything is spent, `BudgetExceeded`, `ModelUnavailable`, and `GraderError` where a judge fails always.
    """
    _check_out(out, judge, labels.path)
    labelled = labels.read()
    made = read_judges(judge, labelled)
    console = Console()
    console.print(Text(_plan(made, labelled)))
    found = asyncio.run(_calibrate(made, out, ask))
    found.save(out)
    console.print()
    print_judge(console, out)
    kind = "cascade" if isinstance(found, Cascade) else "calibrated"
    console.print(Text(f"\nkept in {out}. In a study:  grader: {{{kind}: {{file: {out.name}}}}}"))
    return found


async def _calibrate(made: Made, out: Path, ask: Ask) -> CalibratedJudge | Cascade:
    with Store(replies_of(out)) as store:
        collector = judging(store, Budget(calls=ask.calls, usd=ask.usd))
        judges = [judge.bind(collector.model_for) for judge in made.judges]
        domain = made.domain if ask.domain is None else ask.domain
        options = _Options(min_items=ask.min_items, rule=made.rule, domain=domain, progress=Bars())
        if made.cascade:
            return await calibrate_cascade(judges, made.labelled, ask.alpha, ask.delta, **options)
        return await calibrate(judges[0], made.labelled, ask.alpha, ask.delta, **options)


def judging(store: Store, budget: Budget = Budget()) -> Collector:
    """What meters and keeps the replies of judges' models, beside any study."""
    return Collector(FunctionGrader(lambda task, episode: None, "none"), store=store, study="judge", budget=budget)


def replies_of(file: Path) -> Path:
    """Where the replies of a judge's models are kept."""
    return file.with_suffix(".replies.sqlite")


def _plan(made: Made, labelled: Sequence[Labelled]) -> str:
    shown = len({one.id for one in labelled} - {one.id for one in made.labelled})
    kept = f"; {shown} others are examples of simulated annotators" if shown else ""
    names = ", then ".join(f"{_model_name(judge)} ({_questions(judge)} an item)" for judge in made.judges)
    return f"{len({one.id for one in made.labelled})} labelled items{kept}; asked is {names}"


def _questions(judge: AnyJudge) -> str:
    count = len(judge.questions(_probe(judge)))
    return f"{count} question{'s' * (count > 1)}"


def _model_name(judge: AnyJudge) -> str:
    return judge.model if isinstance(judge.model, str) else judge.model.name


def _probe(judge: AnyJudge) -> Case:
    return Case(question="?", answers=("a", "b") if judge.kind == "pair" else ("a",))


def _check_out(out: Path, *inputs: Path) -> None:
    if out.absolute() in [path.absolute() for path in inputs]:
        raise InputError("this file is read; name another one to write", file=out, field="--out")
    if out.exists():
        kind_of_file(out)


# reporting


def report_judge(file: Path, html: Path | None, run: str | None = None) -> None:
    """Print all that is known of a calibrated judge or a cascade; `html` writes it as a page with plots as well.

    run: also say how much it decided there.
    """
    console = Console()
    certificates = print_judge(console, file)
    if run is not None:
        console.print()
        print_rows(console, run_rows(run, Trail(file, certificates).promise.id, len(certificates)))
    if html is not None:
        write_page(html, file, certificates, Trail(file, certificates), standing(file, certificates))
        console.print(Text(f"\nwritten: {html}"))


def certificates_in(file: Path) -> tuple[Certificate, ...]:
    """The certificates of a file, those that were withdrawn too. Raises `InputError` where there is none."""
    found = read_certificates(file, kind_of_file(file))
    if not found:
        raise InputError("it holds no certificate; calibrate again", file=file, field="certificates")
    return found


def print_judge(console: Console, file: Path) -> tuple[Certificate, ...]:
    """Whether the promise stands, what it is, on what evidence, and what audits say."""
    certificates = certificates_in(file)
    trail = Trail(file, certificates)
    console.print(Text(standing(file, certificates), style="bold"))
    print_certificates(console, trail.promise, certificates)
    print_rows(console, audit_rows(trail))
    for number, certificate in enumerate(certificates, 1):
        if not certificate.calibration.curve:
            continue
        console.print(Text(f"\nLevel {number}" if len(certificates) > 1 else "", style="bold"))
        print_agreement(console, certificate.calibration)
    return certificates


def standing(file: Path, certificates: Sequence[Certificate]) -> str:
    """Whether the certificates hold today, and if not, why."""
    if why := Trail(file, certificates).withdrawn():
        return f"WITHDRAWN: {why}."
    try:
        for certificate in certificates:
            require_same(certificate, remade(certificate))
    except InputError as changed:
        return f"{'NOT VALID' if changed.field == 'grader' else 'NOT CHECKED, for the judge cannot be made here'}: {changed.message}"
    if all(certificate.calibration.threshold is None for certificate in certificates):
        return "It abstains always, so nothing is promised: no threshold passed the calibration."
    mind = " Mind the warnings." if any(certificate.warnings for certificate in certificates if certificate.calibration.n) else ""
    return f"The promise stands: judge and prompts are what they were, and no audit has refuted it.{mind}"
