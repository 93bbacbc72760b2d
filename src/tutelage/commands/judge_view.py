"""What a certificate and its audits say, for a terminal: readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutelage.commands.knowledge_view import safe
from tutelage.graders.cascade import expected
from tutelage.graders.certificate import Certificate
from tutelage.graders.guarantee import Calibration
from tutelage.graders.monitored import Promise, Trail
from tutelage.records import Record

BINS = 10
"""Rows of the table of confidence against agreement, at most."""
BAR = 20
"""Characters of a bar that stands for agreement on every item."""
NOT_PROMISED = (
    "Nothing about items of another kind, about any single verdict, or about the share in one sample, which scatters around the true one. "
    "Nothing about what it abstains from. And nothing once its model, prompts, criteria or options change: the file is refused then."
)


class Bin(Record):
    """Verdicts of a stretch of confidence: from `low` on, up to the next bin. n of them, of which `agree` say what people say."""

    low: float
    n: int
    agree: int

    @property
    def share(self) -> float:
        """The observed agreement."""
        return self.agree / self.n


def bins_of(calibration: Calibration, most: int = BINS) -> list[Bin]:
    """Confidence against agreement, from the surest down: about equally many verdicts in each, ties together."""
    curve = calibration.curve
    wanted = curve[-1].accepted / most if curve else 0
    found: list[Bin] = []
    before = (0, 0)
    for point in curve:
        n, errors = point.accepted - before[0], point.errors - before[1]
        if n >= wanted or (point is curve[-1] and n):
            found.append(Bin(low=point.threshold, n=n, agree=n - errors))
            before = point.accepted, point.errors
    return found


def promise_words(promise: Promise, certificates: Sequence[Certificate]) -> str:
    """What is promised, in one sentence."""
    if all(one.calibration.threshold is None for one in certificates):
        return "Nothing: it never decides."
    subject = "this cascade decides, its judges say" if len(certificates) > 1 else "this judge decides, it says"
    domain = certificates[0].domain
    kind = f"of {domain}" if domain else "of the labelled kind"
    return (
        f"Where {subject} what people say at least {1 - promise.alpha:.4g} of the time, over items {kind}; this holds with probability "
        f"{1 - promise.delta:.4g} over the labels that were drawn for its calibration."
    )


def print_certificates(console: Console, promise: Promise, certificates: Sequence[Certificate]) -> None:
    """Print what is promised, what is not, and on what evidence, each level by itself."""
    rows = [("promised", promise_words(promise, certificates)), ("not promised", NOT_PROMISED), *shared_rows(promise, certificates)]
    print_rows(console, rows)
    for number, certificate in enumerate(certificates, 1):
        if len(certificates) > 1:
            console.print(Text(f"\nLevel {number}", style="bold"))
        print_rows(console, level_rows(certificate))


def print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names beside words that wrap."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold", ratio=1)
    for name, words in rows:
        table.add_row(Text(name, style="bold"), Text(safe(words)))
    console.print(table)


def shared_rows(promise: Promise, certificates: Sequence[Certificate]) -> list[tuple[str, str]]:
    """What all levels share: the levels of error, and the labels."""
    first = certificates[0]
    people = first.people
    alpha = "cannot be told from these labels" if people.krippendorff is None else f"{people.krippendorff:.2f}"
    compared = f", {people.compared} items with several labels" if people.compared else ""
    left = f"; {first.left_out} left out, on which they did not settle" if first.left_out else ""
    together = [("together", expected(certificates).line())] if len(certificates) > 1 else []
    return [
        ("alpha, delta", f"{promise.alpha:g}, {promise.delta:g}"),
        *together,
        ("labels", f"{first.calibration.n} items{f' of {first.domain}' if first.domain else ''}{left} (hash {first.items})"),
        ("people agree", f"Krippendorff's alpha {alpha} ({people.annotators} annotator{'s' * (people.annotators != 1)}{compared})"),
        ("when", moment(first.when)),
    ]


def level_rows(certificate: Certificate) -> list[tuple[str, str]]:
    """One judge: its threshold, what it decides, what it costs, and what moves it."""
    found = certificate.calibration
    if not found.n:
        return [("model", certificate.model), ("decides", "nothing: those before it leave nothing over, so it is never asked")]
    decides = "nothing: it abstains always"
    if found.threshold is not None and found.bound is not None:
        decides = f"{found.accepted} of {found.n} items (coverage {found.coverage:.1%}); {found.errors} disagree, at most {found.bound:.1%}"
    usd = "an unknown price" if certificate.usd is None else f"{certificate.usd:.6g} US dollars"
    biases = [*(certificate.place.lines() if certificate.place else []), *(certificate.length.lines() if certificate.length else [])]
    return [
        ("model", certificate.model),
        ("confidence by", ", ".join(certificate.sources) or "nothing"),
        ("lambda", "none" if found.threshold is None else f"{found.threshold:.6g}: from this confidence on it decides"),
        ("decides", decides),
        ("first test on", f"{found.min_items} items"),
        ("unjudged", f"{certificate.unjudged} items, on which the judge failed"),
        ("an item takes", f"{certificate.calls:.3g} calls, {usd}"),
        *(("bias" if not place else "", line) for place, line in enumerate(biases)),
        *(("warning", warning) for warning in certificate.warnings),
    ]


def print_agreement(console: Console, calibration: Calibration) -> None:
    """Print confidence against agreement, and where the threshold lies."""
    bins = bins_of(calibration)
    if not bins:
        return
    table = Table(box=None, pad_edge=False, title="Confidence against agreement", title_justify="left", title_style="bold")
    for column in ("confidence", "items", "agree", "", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for place, one in enumerate(bins):
        reached = calibration.threshold is not None and (place == 0 or bins[place - 1].low > calibration.threshold)
        decides = "decides" if calibration.accepts(one.low) else "in part" if reached else "abstains"
        ends = f"from {one.low:.3g}" if place == 0 else f"{one.low:.3g} to {bins[place - 1].low:.3g}"
        table.add_row(ends, str(one.n), f"{one.share:.0%}", "#" * round(BAR * one.share), decides)
    console.print(table)


def audit_rows(trail: Trail) -> list[tuple[str, str]]:
    """The state of the monitor in words."""
    monitor, waiting = trail.monitor, len(trail.waiting)
    if not trail.drawn:
        return [("audits", "none yet; `tutelage judge audit` draws a random sample for people")]
    seen = f"{monitor.disagreements} of {monitor.n} verdicts disagree with people"
    rate = f" ({monitor.rate:.1%}; at most {monitor.alpha:.1%} is promised)" if monitor.rate is not None else ""
    against = f"{_odds(monitor.peak)} to 1 at most so far; {1 / monitor.delta:.3g} to 1 withdraws the certificate"
    rows = [("audits", f"{seen}{rate}; {waiting} wait for people"), ("against it", f"{against} (p = {monitor.p_value:.3g} at any time)")]
    if waiting and waiting >= monitor.n:
        rows.append(
            ("warning", "many audits wait. Where people answer easy ones first and others never, the sample is not random any more")
        )
    return rows


def _odds(value: float) -> str:
    """Three digits of what may be small or very large."""
    return f"{value:.3g}" if value < 1000 or value >= 1e9 else f"{value:,.0f}"


def moment(when: datetime) -> str:
    """A time as people read it."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M")
