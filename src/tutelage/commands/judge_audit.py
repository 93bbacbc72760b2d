"""`tutelage judge audit`: a random sample of a judge's verdicts goes to people, and what they say tests its promise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.text import Text

from tutelage.advice import Question, score_of
from tutelage.commands.judge import LabelFile, certificates_in, judging, replies_of, standing
from tutelage.commands.judge_runs import LABELLED, graded_by, store_of
from tutelage.commands.judge_view import audit_rows, print_rows
from tutelage.errors import GraderError, InputError
from tutelage.experience.store import Store
from tutelage.graders.audit import drawn_for_audit
from tutelage.graders.calibrated_judge import CalibratedJudge, load_calibrated
from tutelage.graders.cascade import Cascade, load_cascade
from tutelage.graders.certificate import Certificate, kind_of_file, require_domain
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Opinion
from tutelage.graders.judge_labels import case_of_item, gather
from tutelage.graders.judge_prompts import Asked
from tutelage.graders.labels import Item, Kind, read_items, read_labelled, write_labelled
from tutelage.graders.monitored import Drawn, Trail
from tutelage.inbox import Inbox
from tutelage.inbox.grading import place_of
from tutelage.records import Grade


@dataclass(frozen=True)
class Verdict:
    """An accepted verdict of the judge. says: its score, or `a`, `b`, `tie`. The rest is for the question that a person is asked."""

    item: str
    case: Case
    says: str | float
    confidence: float | None
    task_id: str = ""
    agent_version: str = ""
    episode: str = ""


class People(Protocol):
    """Where people are asked."""

    def ask(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """Put them to people; item -> the id of its question ("" where there is none)."""
        ...

    def answers(self, waiting: Sequence[Drawn]) -> Iterator[tuple[Drawn, str | float, str]]:
        """Those that were answered, the label in the judge's range, and by whom."""
        ...

    def way(self, waiting: int) -> str:
        """How people answer, as a command."""
        ...


def audit_judge(
    file: Path, source: str, *, rate: float, labels: Path | None, inbox: str | None, domain: str | None, items: LabelFile | None
) -> bool:
    """Take in what people said, draw from what is new, put it to people, and print how the promise stands; whether it does.

    source: a run, or a file of items, on which the judge is then asked about those that are drawn. labels: people answer in files, with
    `tutelage label`; inbox: in this inbox (default: a run's own, and for items files). Raises `InputError`.
    """
    certificates = certificates_in(file)
    for certificate in certificates:
        require_domain(certificate, domain, file)
    trail = Trail(file, certificates)
    drawn_for_audit("", rate)  # refuses a rate that is none
    of_items = Path(source).suffix.lower() in LABELLED
    if not of_items:
        store_of(source)  # refuses what is no run
    people = _people(file, certificates, labels, inbox or (None if of_items else source))
    console, taken = Console(), _take_in(trail, people, certificates)
    console.print(Text(f"taken in: {taken} answer{'s' * (taken != 1)}"))
    if not trail.withdrawn():
        fresh = (
            _from_items(file, trail, rate, items or LabelFile(Path(source))) if of_items else _from_run(source, trail, certificates, rate)
        )
        console.print(Text(f"drawn: {_put(trail, people, list(fresh), rate)} new verdicts, by a hash, at a rate of {rate:g}"))
    why = trail.withdrawn()
    console.print(Text(standing(file, certificates), style="bold"))
    print_rows(console, audit_rows(trail))
    if trail.waiting and not why:
        console.print(Text(f"people answer with:  {people.way(len(trail.waiting))}\nthen run this command again"))
    return not why


def _take_in(trail: Trail, people: People, certificates: Sequence[Certificate]) -> int:
    rule, count = certificates[0].rule, 0
    for drawn, label, annotator in people.answers(trail.waiting):
        said = isinstance(drawn.says, str)
        verdict, score = (str(drawn.says), None) if said else ("", float(drawn.says))
        agrees = rule.agrees(Opinion(verdict=verdict, score=score, confidence=drawn.confidence or 0.0), label)
        trail.audit(drawn.item, label, agrees=agrees, annotator=annotator)
        count += 1
    return count


def _put(trail: Trail, people: People, verdicts: Sequence[Verdict], rate: float) -> int:
    """Asked first and kept then: where the process dies between the two, the same questions are only asked again."""
    questions = people.ask(verdicts)
    for one in verdicts:
        given = {"says": one.says, "confidence": one.confidence, "rate": rate, "question": questions[one.item]}
        trail.draw(Drawn(promise=trail.promise.id, item=one.item, when=datetime.now(UTC), **given))
    return len(verdicts)


# where verdicts come from


def _from_run(run: str, trail: Trail, certificates: Sequence[Certificate], rate: float) -> Iterator[Verdict]:
    """What the judge accepted in a run and the hash draws, as far as it was not drawn before.

    Of each task and agent it is the first verdict: attempts at one task are wrongly judged together, and a test would take them for many.
    """
    chars = max(_option(one, "max_chars") for one in certificates)
    place, seen = store_of(run), set(trail.drawn)
    with Store(place) as store:
        for experience in graded_by(store, place, trail.promise.id):
            episode, grade = experience.episode, experience.grade
            item = f"{experience.study}:{episode.agent_version}/{episode.task_id}"
            if grade.score is None or not _accepted_by_judge(grade, len(certificates)) or item in seen:
                continue
            seen.add(item)
            task = store.task(episode.task_id)
            if task is not None and drawn_for_audit(item, rate, trail.promise.id):
                case = case_of(task, episode, max_chars=chars)
                yield Verdict(item, case, grade.score, grade.confidence, task.id, episode.agent_version, episode.ref)


def _accepted_by_judge(grade: Grade, levels: int) -> bool:
    """Whether a judge decided, and not whoever is asked where none does."""
    level = grade.parts.get("level")
    return not grade.abstained and (level is None or 1 <= level <= levels)


def _from_items(file: Path, trail: Trail, rate: float, items: LabelFile) -> list[Verdict]:
    """What the judge, asked now, accepts of the items that the hash draws."""
    listed = items.items()
    chosen = [one for one in listed if one.id not in trail.drawn and drawn_for_audit(one.id, rate, trail.promise.id)]
    judge = load_cascade(file) if kind_of_file(file) == "cascade" else load_calibrated(file)

    async def ask() -> list[Verdict]:
        with Store(replies_of(file)) as store:
            bound = judge.bind(judging(store).model_for)
            found = []
            for one in chosen:
                case = case_of_item(one)
                if (opinion := await _accepted(bound, case)) is not None:
                    says = opinion.verdict if opinion.score is None else opinion.score
                    found.append(Verdict(one.id, case, says, opinion.confidence))
            return found

    return asyncio.run(ask())


async def _accepted(judge: CalibratedJudge | Cascade, case: Case) -> Opinion | None:
    """The opinion that may stand; None where it abstains or fails."""
    try:
        if isinstance(judge, Cascade):
            return (await judge.decide(case)).opinion
        opinion = await judge.opinion(case)
        return opinion if opinion is not None and judge.accepts(opinion) else None
    except GraderError:
        return None


# where people are asked


@dataclass(frozen=True)
class ByInbox:
    """People answer in the inbox of a store. They are not told what the judge says."""

    place: str
    certificate: Certificate

    def ask(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """Put them in the inbox; what is there already stays as it is."""
        with Inbox(place_of(self.place)) as inbox:
            return {one.item: inbox.put(self._question(one)).id for one in verdicts}

    def answers(self, waiting: Sequence[Drawn]) -> Iterator[tuple[Drawn, str | float, str]]:
        """What was answered; what was declined never is."""
        with Inbox(place_of(self.place)) as inbox:
            for drawn in waiting:
                for entry in inbox.find(drawn.question) if drawn.question else ():
                    if entry.answer is not None:
                        yield drawn, score_of(entry.answer.answer), entry.answer.by

    def way(self, waiting: int) -> str:
        """The command."""
        return f"tutelage inbox watch {self.place}"

    def _question(self, one: Verdict) -> Question:
        reference = _option(self.certificate, "reference") and one.case.reference
        parts = [f"[the task]\n{one.case.question}", f"[the answer]\n{one.case.answers[0] or '(nothing)'}"]
        parts += [f"[a right answer, to compare with]\n{one.case.reference}"] if reference else []
        return Question(
            text=f"Does the answer meet the criterion?\n{_criteria(self.certificate)}",
            context="\n\n".join(parts),
            kind="grade",
            agent_version=one.agent_version,
            task_id=one.task_id,
            episode=one.episode or one.item,
        )


@dataclass(frozen=True)
class ByFiles:
    """People label a file of items with `tutelage label`; two answers are shown in an order that hides which is a."""

    items: Path
    labels: Path
    kind: Kind
    certificate: Certificate

    def ask(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """Add them to the items."""
        known = read_items(self.items) if self.items.exists() else ()
        ids = {one.id for one in known}
        new = [self._item(one) for one in verdicts]
        if new:
            write_labelled(self.items, [*known, *(one for one in new if one.id not in ids)])
        return {one.item: "" for one in verdicts}

    def _item(self, one: Verdict) -> Item:
        reference = one.case.reference if _option(self.certificate, "reference") else ""
        return Item(id=one.item, kind=self.kind, task=one.case.question, answers=one.case.answers, reference=reference)

    def answers(self, waiting: Sequence[Drawn]) -> Iterator[tuple[Drawn, str | float, str]]:
        """What people settled on: the majority's label, or of scores the mean."""
        if not self.labels.exists() or not self.labels.stat().st_size:
            return
        labelled = read_labelled(self.labels)
        settled = {one.id: one.label for one in gather(labelled, score_range=self.certificate.rule.score_range).cases}
        for drawn in waiting:
            if drawn.item in settled:
                people = sorted({one.annotator for one in labelled if one.id == drawn.item and one.annotator})
                yield drawn, settled[drawn.item], ", ".join(people)

    def way(self, waiting: int) -> str:
        """The command."""
        low, high = self.certificate.rule.score_range
        scale = f" --scale {low:g}-{high:g}" if self.kind == "score" else ""
        return f"tutelage label {self.items} --out {self.labels}{scale}"


def _people(file: Path, certificates: Sequence[Certificate], labels: Path | None, inbox: str | None) -> People:
    first = certificates[0]
    pairs = first.judge.get("kind") == "pairwise"
    if inbox is not None and labels is None:
        if pairs:
            raise InputError("of pairs people label a file, which hides which answer is a; leave --inbox out", field="--inbox")
        return ByInbox(inbox, first)
    scores = first.rule.within is not None or first.rule.score_range != (0.0, 1.0)
    kind: Kind = "pairwise" if pairs else "score" if scores else "right_wrong"
    own = labels or file.with_suffix(".audit-labels.jsonl")
    return ByFiles(file.with_suffix(".audit-items.jsonl"), own, kind, first)


def _option(certificate: Certificate, name: str) -> int:
    """An option that all judges have; where the certificate leaves it out, it is at its default."""
    options = certificate.judge.get("options") or {}
    return int(options.get(name, Asked.model_fields[name].default))


def _criteria(certificate: Certificate) -> str:
    criteria = (certificate.judge.get("options") or {}).get("criteria", "")
    return criteria if isinstance(criteria, str) else "\n".join(f"{name}: {words}" for name, words in criteria.items())
