"""The monitor of a certificate, kept beside its file: `judge.json` has `judge.audit.jsonl`.

A line is an event, and lines are only ever added: a verdict that a hash drew for people to look at (`drawn`), and what they say of it
(`audited`). The state of the monitor is what follows from these lines, in their order (`audit.replay`); nothing else is kept. Move both
files together: without its log, a certificate that was withdrawn looks as if it held.

A certificate that is calibrated anew, on other labels or for another judge, is another promise: it begins with no audits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tutelage.errors import InputError, StoreError
from tutelage.graders.audit import Audit, Monitor, replay
from tutelage.graders.certificate import Certificate
from tutelage.records import Record, content_id
from tutelage.task_formats.lines import Where, json_object


class Promise(Record):
    """What certificates promise together: at most alpha disagreement, with probability 1 - delta. id: of one certificate its own."""

    id: str
    alpha: float
    delta: float


class Drawn(Record):
    """An accepted verdict that goes to people. says: the judge's score in [0, 1], or `a`, `b`, `tie`. question: its id in an inbox.

    rate: the share of verdicts that was being drawn then.
    """

    did: Literal["drawn"] = "drawn"
    promise: str
    item: str
    says: str | float
    confidence: float | None = None
    rate: float
    question: str = ""
    when: datetime


class Audited(Record):
    """What people say of a drawn verdict. label: a score in [0, 1], or `a`, `b`, `tie`; agrees: whether the judge said the same."""

    did: Literal["audited"] = "audited"
    promise: str
    item: str
    label: str | float
    agrees: bool
    annotator: str = ""
    when: datetime


Event = Drawn | Audited


def promise_of(certificates: Sequence[Certificate]) -> Promise:
    """The promise of a calibrated judge, or of all levels of a cascade together."""
    ids = [one.id for one in certificates]
    calibrations = [one.calibration for one in certificates]
    return Promise(
        id=ids[0] if len(ids) == 1 else content_id(ids),
        alpha=max(one.alpha for one in calibrations),
        delta=round(sum(one.delta for one in calibrations), 12),
    )


def log_of(file: str | Path) -> Path:
    """Where the events of a judge's file stand."""
    return Path(file).with_suffix(".audit.jsonl")


class Trail:
    """The events of one promise. Raises `InputError` for a log that is something else, `StoreError` where it cannot be written.

    drawn, audited: by item, in the order of the log; of two events of a kind about one item the first counts.
    """

    def __init__(self, file: str | Path, certificates: Sequence[Certificate]) -> None:
        self.path, self.promise = log_of(file), promise_of(certificates)
        self.drawn: dict[str, Drawn] = {}
        self.audited: dict[str, Audited] = {}
        for event in _events(self.path):
            if event.promise == self.promise.id:
                self._take(event)

    @property
    def waiting(self) -> list[Drawn]:
        """What was drawn and not audited yet."""
        return [one for one in self.drawn.values() if one.item not in self.audited]

    @property
    def monitor(self) -> Monitor:
        """The state of the test."""
        return self._after(self.audited.values())

    @property
    def history(self) -> list[Monitor]:
        """The state after each audit, for plots."""
        states = [self._after(())]
        for one in self.audited.values():
            states.append(states[-1].after(one.agrees))
        return states[1:]

    def draw(self, drawn: Drawn) -> None:
        """Keep that a verdict goes to people; it survives the death of the process when this has returned."""
        self._add(drawn)

    def audit(self, item: str, label: str | float, *, agrees: bool, annotator: str = "") -> None:
        """Keep what people say of a drawn verdict; the first word on an item stands. Raises `InputError` for one that was not drawn."""
        if item not in self.drawn:
            raise InputError(f"the item `{item}` was not drawn for an audit; a sample that somebody chooses proves nothing", field="item")
        if item not in self.audited:
            given = {"item": item, "label": label, "agrees": agrees, "annotator": annotator, "when": datetime.now(UTC)}
            self._add(Audited(promise=self.promise.id, **given))

    def withdrawn(self) -> str:
        """Why the certificate does not hold any more, in words; empty where it does."""
        monitor = self.monitor
        if monitor.withdrawn_at is None or monitor.rate is None:
            return ""
        last = list(self.audited.values())[monitor.withdrawn_at - 1]
        seen = self._after(list(self.audited.values())[: monitor.withdrawn_at])
        return (
            f"its certificate was withdrawn on {last.when.date()}: people disagree with {seen.disagreements} of {seen.n} audited verdicts "
            f"({seen.disagreements / seen.n:.0%}), and at most {monitor.alpha:.0%} was promised; the evidence against the promise is "
            f"{seen.peak:.0f} to 1, and {1 / monitor.delta:.0f} to 1 is enough (audits: {self.path}). Calibrate again on new labels"
        )

    def _after(self, audited: Iterable[Audited]) -> Monitor:
        audits = (Audit(item=one.item, agrees=one.agrees, annotator=one.annotator, when=one.when) for one in audited)
        return replay(audits, self.promise.alpha, self.promise.delta)

    def _take(self, event: Event) -> None:
        if isinstance(event, Drawn):
            self.drawn.setdefault(event.item, event)
        else:
            self.audited.setdefault(event.item, event)

    def _add(self, event: Event) -> None:
        line = json.dumps(event.model_dump(mode="json"), ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = len(_whole_lines(self.path))
            with self.path.open("ab") as file:
                if file.tell() > whole and not _ends_whole(self.path):
                    file.truncate(whole)  # what a crash left of a line
                file.write(line.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as failed:
            raise StoreError(f"{self.path} cannot be written: {failed.strerror}. Free some space, then run again") from None
        self._take(event)


def require_standing(file: str | Path, certificates: Sequence[Certificate]) -> None:
    """Raise `InputError`, saying why, where audits have refuted the promise."""
    if certificates and (why := Trail(file, certificates).withdrawn()):
        raise InputError(f"this judge may not decide any more: {why}", file=file, field="grader")


def _events(path: Path) -> Iterator[Event]:
    for number, raw in enumerate(_whole_lines(path).splitlines(), 1):
        where = Where(str(path), number)
        try:
            row = json_object(raw.decode(), where)
        except UnicodeDecodeError as broken:
            raise where.error(f"not UTF-8 text (byte {broken.start})") from None
        if row.get("did") not in ("drawn", "audited"):
            raise where.error(f"no event of an audit that this version knows: {row.get('did')!r}", "did")
        try:
            yield Drawn.model_validate(row) if row["did"] == "drawn" else Audited.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            raise where.error(first["msg"], ".".join(map(str, first["loc"]))) from None


def _ends_whole(path: Path) -> bool:
    return path.read_bytes()[-1:] == b"\n"


def _whole_lines(path: Path) -> bytes:
    """The file up to its last line end; what a crash left behind it says nothing."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as failed:
        raise InputError(f"cannot be read: {failed.strerror}", file=path) from None
    return content[: content.rfind(b"\n") + 1]
