"""Calibrating judges on what people say: what they are asked about, and the certificates that come of it.

Source: Jung, Brahman and Choi 2024, "Trust or Escalate" (arXiv:2407.18370). Judges that are asked one after another are calibrated each on
the items that those before it do not accept; a single judge is a cascade of one level. The threshold and what it claims: `guarantee`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tutelage.errors import InputError
from tutelage.graders.certificate import AnyJudge, Certificate, Rule
from tutelage.graders.guarantee import Calibration, check_enough, check_levels
from tutelage.graders.guarantee_cascade import calibrate_cascade as calibrate_levels
from tutelage.graders.judge_bias import length_bias, place_bias, score_length_bias
from tutelage.graders.judge_confidence import Opinion, Source
from tutelage.graders.judge_labels import Gathered, gather
from tutelage.graders.judge_opinions import opinions_of
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled
from tutelage.progress import Progress
from tutelage.records import Usage

_RULE = Rule()


@dataclass(frozen=True)
class Wanted:
    """At most alpha disagreement with probability 1 - delta, for all levels together. The rest as in `calibrate`."""

    alpha: float
    delta: float
    min_items: int | None = None
    rule: Rule = _RULE
    domain: str = ""


async def certify_levels(
    judges: Sequence[AnyJudge], labelled: Sequence[Labelled], wanted: Wanted, progress: Progress | None = None
) -> list[Certificate]:
    """The certificate of each judge, from the one that is asked first; delta is split among them. A later one is asked about what is left.

    Raises `InputError` before anything is spent, and `GraderError` where a judge fails on all of its items.
    """
    _check_alike(judges)
    for judge in judges:
        gathered = _prepared(judge, labelled, wanted, len(judges))
    n = len(gathered.cases)
    evidence = [_Evidence([None] * n, [None] * n) for _ in judges]
    left = list(range(n))
    found: list[Certificate] = []
    for number, judge in enumerate(judges):
        reached = gathered.model_copy(update={"cases": tuple(gathered.cases[place] for place in left)})
        stage = "calibration" if len(judges) == 1 else f"calibration, level {number + 1}"
        opinions = await opinions_of(judge, [one.case for one in reached.cases], progress, stage)
        evidence[number].put(left, reached, opinions, wanted.rule)
        levels = calibrate_levels(
            [(own.confidence, own.correct) for own in evidence], wanted.alpha, wanted.delta, min_items=wanted.min_items
        ).levels
        calibration = levels[number].calibration
        found.append(_certify(judge, reached, opinions, calibration, wanted, after=tuple(one.id for one in found)))
        left = [place for place in left if not calibration.accepts(evidence[number].confidence[place])]
    return found


@dataclass(frozen=True)
class _Evidence:
    """One level's confidence and agreement on all items; None where it was not asked, or failed."""

    confidence: list[float | None]
    correct: list[bool | None]

    def put(self, places: Sequence[int], reached: Gathered, opinions: Sequence[Opinion | None], rule: Rule) -> None:
        for place, one, opinion in zip(places, reached.cases, opinions, strict=True):
            self.confidence[place] = None if opinion is None else opinion.confidence
            self.correct[place] = None if opinion is None else rule.agrees(opinion, one.label)


def _check_alike(judges: Sequence[AnyJudge]) -> None:
    if not judges:
        raise InputError("a cascade needs one judge at least", field="grader.cascade")
    if len({judge.kind for judge in judges}) > 1:
        raise InputError("the judges of a cascade read either single answers or pairs, all of them", field="grader.cascade")


def _prepared(judge: AnyJudge, labelled: Sequence[Labelled], wanted: Wanted, levels: int) -> Gathered:
    """The labelled cases, checked against what the judge needs. Raises `InputError`."""
    check_levels(wanted.alpha, wanted.delta, 1 if wanted.min_items is None else wanted.min_items)
    gathered = gather(labelled, score_range=wanted.rule.score_range)
    _check_fits(judge, gathered)
    try:
        check_enough(len(gathered.cases), wanted.alpha, wanted.delta / levels, wanted.min_items)
    except InputError as few:
        if not gathered.left_out:
            raise
        raise InputError(f"{few.message}. People did not settle on {gathered.left_out} others, which are left out") from None
    return gathered


def _check_fits(judge: AnyJudge, gathered: Gathered) -> None:
    """Raise `InputError` where the judge cannot judge these cases, or knows some of their labels."""
    pairs = isinstance(judge, PairwiseJudge)
    for one in gathered.cases:
        if (len(one.case.answers) == 2) is not pairs:
            kind = "compares two answers" if pairs else "reads single answers"
            raise InputError(f"the judge {kind}, and the labels are of {'single ones' if pairs else 'pairs'}", field="labels")
        if judge.options.reference and not one.case.reference:
            raise InputError(
                f"the judge compares with a reference, and the item `{one.id}` has none; say which column holds the right answer "
                "(`reference`)",
                field="reference",
            )
    known = {example.case.content for annotator in judge.options.annotators for example in annotator.examples}
    shared = [one.id for one in gathered.cases if one.case.content in known]
    if shared:
        raise InputError(
            f"{len(shared)} of the items are examples of the judge's simulated annotators (`{shared[0]}`), so it knows their labels; "
            "calibrate on others (split_labelled)",
            field="labels",
        )


def _certify(
    judge: AnyJudge,
    gathered: Gathered,
    opinions: Sequence[Opinion | None],
    calibration: Calibration,
    wanted: Wanted,
    after: tuple[str, ...],
) -> Certificate:
    judged = [(one, opinion) for one, opinion in zip(gathered.cases, opinions, strict=True) if opinion is not None]
    usage = sum((opinion.usage for _, opinion in judged), Usage())
    costs = [opinion.cost_usd for _, opinion in judged]
    known = [cost for cost in costs if cost is not None]
    cases, found, labels = [one.case for one, _ in judged], [opinion for _, opinion in judged], [one.label for one, _ in judged]
    biases: dict[str, Any] = (
        {"place": place_bias(found), "length": length_bias(cases, found, [str(label) for label in labels])}
        if isinstance(judge, PairwiseJudge)
        else {"length": score_length_bias(cases, found, [float(label) for label in labels])}
    )
    return Certificate(
        judge=judge.described(),
        model=judge.model if isinstance(judge.model, str) else judge.model.name,
        rule=wanted.rule,
        calibration=calibration,
        items=gathered.content,
        people=gathered.people,
        when=datetime.now(UTC),
        domain=wanted.domain,
        left_out=gathered.left_out,
        unjudged=len(opinions) - len(judged),
        after=after,
        sources=tuple(dict.fromkeys(source.value for opinion in found for source in opinion.sources)),
        calls=usage.calls / max(1, len(judged)),
        usd=math.fsum(known) / max(1, len(known)) if len(known) == len(costs) else None,
        warnings=tuple(dict.fromkeys([*gathered.warnings, *calibration.warnings, *_warnings(judge, gathered, opinions)])),
        **biases,
    )


def _warnings(judge: AnyJudge, gathered: Gathered, opinions: Sequence[Opinion | None]) -> list[str]:
    failed = sum(opinion is None for opinion in opinions)
    ties = sum(one.label == "tie" for one in gathered.cases)
    sources = {source for opinion in opinions if opinion is not None for source in opinion.sources} - {Source.RULE}
    found = [f"the judge failed on {failed} of {len(opinions)} items; such items stay ungraded"] if failed else []
    if isinstance(judge, PairwiseJudge) and not judge.options.ties and ties:
        found.append(f"people call {ties} pairs a tie, which this judge may not, so it disagrees there")
    if len(sources) > 1:
        found.append("its confidence came now from one source and now from another, and these are not alike; set `alternatives`")
    return found
