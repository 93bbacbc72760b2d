"""What people labelled, as judges need it: cases with one label each, and people to simulate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from tutelage.errors import InputError
from tutelage.graders.agreement import Agreement, agreement, ballots, majority
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_prompts import Annotator, Example
from tutelage.graders.labels import Item, Labelled, label_warnings, votes
from tutelage.records import Record, content_id

Range = tuple[float, float]
"""The worst and the best score that people could give."""


class LabelledCase(Record):
    """A case with what people say of it: `a`, `b` or `tie`, or a score in [0, 1] (right is 1, wrong is 0)."""

    id: str
    case: Case
    label: str | float


class Gathered(Record):
    """All cases on which people settled. left_out: items without a majority. people: how far they agree."""

    cases: tuple[LabelledCase, ...]
    people: Agreement
    left_out: int
    warnings: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """A hash of the cases and their labels, whatever their order."""
        return content_id(sorted(content_id(one.canonical()) for one in self.cases))


def gather(labelled: Sequence[Labelled], *, score_range: Range = (0.0, 1.0)) -> Gathered:
    """One label for each item: the majority's, or of scores the mean. A vote that contradicts another of the same person counts nothing.

    Raises `InputError` where there are no labels, items are of several kinds, an item has no texts, or a score is out of `score_range`.
    """
    kinds = sorted({one.kind for one in labelled})
    if len(kinds) != 1:
        raise InputError(f"the labels are of several kinds ({', '.join(kinds)}); use one" if kinds else "there are no labelled items")
    cast = votes(labelled)
    settled = majority(cast).labels
    if kinds[0] == "score":
        settled = {id: math.fsum(map(float, given.values())) / len(given) for id, given in ballots(cast).items() if given}
    firsts = {one.id: one for one in reversed(labelled)}
    items = [firsts[id] for id in dict.fromkeys(one.id for one in labelled)]
    cases = [
        LabelledCase(id=item.id, case=case_of_item(item), label=read_label(settled[item.id], score_range, item))
        for item in items
        if item.id in settled
    ]
    repeated = len(cases) - len({firsts[one.id].content for one in cases})
    warnings = [f"{repeated} items repeat the content of others; the guarantee is for independent items"] if repeated else []
    return Gathered(
        cases=tuple(cases),
        people=agreement(cast, "interval" if kinds[0] == "score" else "nominal"),
        left_out=len(items) - len(cases),
        warnings=(*label_warnings(labelled), *warnings),
    )


def case_of_item(item: Item) -> Case:
    """The item as a judge sees it. Raises `InputError` where its texts are missing."""
    if not item.answers:
        message = f"the item `{item.id}` has no answer to judge; say which columns hold the texts (task, answer, or a and b)"
        file, _, line = (item.source or "").rpartition(":")
        raise InputError(message, file=file or None, line=int(line) if line.isdecimal() else None, field="answer")
    return Case(question=item.task, answers=item.answers, reference=item.reference)


def read_label(label: str | float, score_range: Range, item: Item) -> str | float:
    """The label as a judge gives it: `a`, `b`, `tie`, or a score in [0, 1]."""
    if isinstance(label, str):
        return {"right": 1.0, "wrong": 0.0}.get(label, label)
    low, high = score_range
    if not low < high:
        raise InputError(f"scores range from the worst to the best, and this is {score_range}", field="score_range")
    if not low <= label <= high:
        raise InputError(
            f"the score {label:g} of the item `{item.id}` is not from {low:g} to {high:g}; say what range people used: "
            "`score_range: [1, 5]`, in a judge's file under `agree`",
            field="score_range",
        )
    return (label - low) / (high - low)


def simulated_annotators(
    labelled: Sequence[Labelled], n: int = 3, k: int = 3, *, people: bool | None = None, seed: int = 0, score_range: Range = (0.0, 1.0)
) -> tuple[Annotator, ...]:
    """People to simulate: `n` annotators, each by `k` examples of one person's labels, drawn by a hash of `seed` and the item.

    people False: each by a random subset of what people settled on (None: where the labels do not say whose they are). What they are
    shown must not be calibrated or tested on. Raises `InputError` where n or k is too large for the labels.
    """
    if n < 1 or k < 1:
        raise InputError(f"at least one annotator with one example is needed, and these are {n} with {k}")
    named = any(one.annotator for one in labelled) if people is None else people
    return _persons(labelled, n, k, seed, score_range) if named else _subsets(labelled, n, k, seed, score_range)


def _persons(labelled: Sequence[Labelled], n: int, k: int, seed: int, score_range: Range) -> tuple[Annotator, ...]:
    cast = ballots(votes(labelled))
    own: defaultdict[str, dict[str, Labelled]] = defaultdict(dict)
    for one in labelled:
        if one.annotator and one.annotator in cast[one.id]:
            own[one.annotator][one.id] = one
    able = [name for name in own if len(own[name]) >= k]
    if len(able) < n:
        raise InputError(
            f"{n} people with {k} labelled items each are to be simulated, and there are {len(able)}. Ask for fewer, or let examples be "
            "drawn from all labels (people=False)"
        )
    chosen = sorted(able, key=lambda name: content_id([seed, name]))[:n]
    return tuple(Annotator(name=name, examples=_drawn(list(own[name].values()), k, [seed, name], score_range)) for name in chosen)


def _subsets(labelled: Sequence[Labelled], n: int, k: int, seed: int, score_range: Range) -> tuple[Annotator, ...]:
    settled = majority(votes(labelled)).labels
    firsts = {one.id: one for one in reversed(labelled)}
    items = [firsts[id].model_copy(update={"label": label}) for id, label in settled.items()]
    if len(items) < k + (n > 1):
        raise InputError(f"{n} different subsets of {k} items are to be drawn, and only {len(items)} items have a label. Ask for fewer")
    return tuple(Annotator(name=f"subset {number}", examples=_drawn(items, k, [seed, number], score_range)) for number in range(1, n + 1))


def _drawn(own: Sequence[Labelled], k: int, seed: list[int | str], score_range: Range) -> tuple[Example, ...]:
    drawn = sorted(own, key=lambda one: content_id([*seed, one.content]))[:k]
    return tuple(Example.model_validate({"case": case_of_item(one), "label": read_label(one.label, score_range, one)}) for one in drawn)
