"""A judge with a promise: where it does not abstain, it agrees with people at least 1 - alpha of the time, with probability 1 - delta.

Source: Jung, Brahman and Choi 2024, "Trust or Escalate" (arXiv:2407.18370); the threshold and what it claims: `graders.guarantee`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tutelage.errors import InputError
from tutelage.graders.certificate import (
    AnyJudge,
    Certificate,
    Rule,
    read_certificates,
    remade,
    require_domain,
    require_same,
    write_certificates,
)
from tutelage.graders.guarantee import Calibration, check_enough, check_levels
from tutelage.graders.guarantee import calibrate as calibrate_items
from tutelage.graders.judge import Judge, grade_of
from tutelage.graders.judge_bias import length_bias, place_bias, score_length_bias
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Opinion
from tutelage.graders.judge_labels import Gathered, gather
from tutelage.graders.judge_models import Models
from tutelage.graders.judge_opinions import opinions_of
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled
from tutelage.graders.monitored import require_standing
from tutelage.model import Model
from tutelage.progress import Progress
from tutelage.records import Episode, Grade, Task, Usage

ALPHA, DELTA = 0.1, 0.1
_RULE = Rule()


class CalibratedJudge:
    """A judge that abstains where it is not sure enough. As a grader it then gives no score (`abstained`), which is never 0.

    A calibrated judge of pairs is no grader; `opinion` says which of two answers is better, and `accepts` whether that may stand. Raises
    `InputError` where the certificate is not this judge's. Its name holds the certificate's id.
    """

    def __init__(self, judge: AnyJudge, certificate: Certificate) -> None:
        require_same(certificate, judge)
        self.judge, self.certificate = judge, certificate

    @property
    def name(self) -> str:
        """`calibrated:` and the certificate's id."""
        return f"calibrated:{self.certificate.id}"

    def bind(self, models: Models) -> Self:
        """The same, asking the models that `models` gives."""
        other = copy(self)
        other.judge = self.judge.bind(models)
        return other

    def accepts(self, opinion: Opinion) -> bool:
        """Whether the judge is sure enough."""
        return self.certificate.calibration.accepts(opinion.confidence)

    async def opinion(self, case: Case) -> Opinion | None:
        """What the judge thinks of a case; None where it abstains always and need not be asked. Raises as the judge does."""
        return None if self.certificate.calibration.threshold is None else await self.judge.opinion(case)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The judge's grade, or none where it is not sure enough."""
        opinion = await self.opinion(case_of(task, episode, max_chars=self.judge.options.max_chars))
        if opinion is not None and self.accepts(opinion):
            return grade_of(opinion)
        return abstention(self.unsure(opinion), opinion)

    def unsure(self, opinion: Opinion | None) -> str:
        """Why it abstains, in words."""
        needed = self.certificate.calibration.threshold
        if opinion is None or needed is None:
            return "the judge abstains always: nothing passed its calibration"
        return f"the judge is not sure enough: its confidence is {opinion.confidence:.3g}, and {needed:.3g} is needed"

    def check(self, task: Task) -> None:
        """What the judge needs. Raises `InputError` for a judge of pairs."""
        grading(self.judge).check(task)

    def save(self, path: str | Path) -> None:
        """Write the certificate, from which `load_calibrated` makes the grader again. Raises `StoreError`."""
        write_certificates(path, "calibrated", [self.certificate])


def load_calibrated(
    file: str | Path, *, judge: AnyJudge | None = None, model: str | Model | None = None, domain: str | None = None
) -> CalibratedJudge:
    """The calibrated judge of a file. judge: for which it must hold (None: made again from the file). model: in place of the one that the
    file names, which must be the same by content. domain: what kind of items it is to judge; must be the one it was calibrated on.

    Raises `InputError` where the file is no such file, and, saying why, where the certificate does not hold any more: model, prompts,
    criteria, options or domain have changed, or audits have withdrawn it (`monitored`).
    """
    certificates = read_certificates(file, "calibrated")
    if len(certificates) != 1 or certificates[0].after:
        raise InputError("a calibrated judge has one certificate that stands by itself; this is a part of a cascade", file=file)
    certificate = certificates[0]
    require_standing(file, certificates)
    require_domain(certificate, domain, file)
    found = judge or remade(certificate, model)
    require_same(certificate, found, file)
    return CalibratedJudge(found, certificate)


async def calibrate(
    judge: AnyJudge,
    labelled: Sequence[Labelled],
    alpha: float = ALPHA,
    delta: float = DELTA,
    *,
    min_items: int | None = None,
    rule: Rule = _RULE,
    references: Mapping[str, str] | None = None,
    domain: str = "",
    progress: Progress | None = None,
) -> CalibratedJudge:
    """Find the confidence from which the judge agrees with people's majority at least 1 - alpha of the time, with probability 1 - delta.

    The labels should be new to everything that shaped the judge: its criteria, its simulated annotators. Of the items on which people did
    not settle, or the judge failed, nothing is learned; both are counted. min_items: items that a threshold needs (None: 30 or more, see
    `guarantee.first_test`). references: item id -> right answer, for a judge that compares with one. A judge bound to models that keep
    their replies asks nothing twice, so an interrupted calibration continues.

    Raises `InputError` before anything is spent where the labels are too few or not of the judge's kind, or hold examples of its
    annotators; `GraderError` where the judge fails on every item.
    """
    gathered = prepared(judge, labelled, (alpha, delta, min_items), rule, references)
    opinions = await opinions_of(judge, [one.case for one in gathered.cases], progress, "calibration")
    calibration = calibrate_items(*evidence_of(gathered, opinions, rule), alpha, delta, min_items)
    return CalibratedJudge(judge, certify(judge, gathered, opinions, calibration, rule=rule, domain=domain))


def prepared(
    judge: AnyJudge,
    labelled: Sequence[Labelled],
    levels: tuple[float, float, int | None],
    rule: Rule,
    references: Mapping[str, str] | None,
) -> Gathered:
    """The labelled cases, checked against what the judge needs. levels: alpha, delta, min_items. Raises `InputError`."""
    alpha, delta, min_items = levels
    check_levels(alpha, delta, 1 if min_items is None else min_items)
    gathered = gather(labelled, references=references, score_range=rule.score_range)
    check_fits(judge, gathered)
    check_enough(len(gathered.cases), alpha, delta, min_items)
    return gathered


def check_fits(judge: AnyJudge, gathered: Gathered) -> None:
    """Raise `InputError` where the judge cannot judge these cases, or knows some of their labels."""
    pairs = isinstance(judge, PairwiseJudge)
    for one in gathered.cases:
        if (len(one.case.answers) == 2) is not pairs:
            kind = "compares two answers" if pairs else "reads single answers"
            raise InputError(f"the judge {kind}, and the labels are of {'single ones' if pairs else 'pairs'}", field="labels")
        if judge.options.reference and not one.case.reference:
            raise InputError(f"the judge compares with a reference, and `references` has none for the item `{one.id}`", field="references")
    known = {example.case.content for annotator in judge.options.annotators for example in annotator.examples}
    shared = [one.id for one in gathered.cases if one.case.content in known]
    if shared:
        raise InputError(
            f"{len(shared)} of the items are examples of the judge's simulated annotators (`{shared[0]}`), so it knows their labels; "
            "calibrate on others (split_labelled)",
            field="labels",
        )


def evidence_of(gathered: Gathered, opinions: Sequence[Opinion | None], rule: Rule) -> tuple[list[float | None], list[bool | None]]:
    """Confidence and agreement of each case; None where the judge failed."""
    pairs = list(zip(gathered.cases, opinions, strict=True))
    confidence = [None if opinion is None else opinion.confidence for _, opinion in pairs]
    return confidence, [None if opinion is None else rule.agrees(opinion, one.label) for one, opinion in pairs]


def certify(
    judge: AnyJudge,
    gathered: Gathered,
    opinions: Sequence[Opinion | None],
    calibration: Calibration,
    *,
    rule: Rule,
    domain: str = "",
    after: tuple[str, ...] = (),
) -> Certificate:
    """The certificate of a calibration."""
    judged = [(one, opinion) for one, opinion in zip(gathered.cases, opinions, strict=True) if opinion is not None]
    usage = sum((opinion.usage for _, opinion in judged), Usage())
    costs = [opinion.cost_usd for _, opinion in judged]
    known = [cost for cost in costs if cost is not None]
    cases, found, labels = [one.case for one, _ in judged], [opinion for _, opinion in judged], [one.label for one, _ in judged]
    sources = tuple(dict.fromkeys(source.value for opinion in found for source in opinion.sources))
    biases: dict[str, Any] = (
        {"place": place_bias(found), "length": length_bias(cases, found, [str(label) for label in labels])}
        if isinstance(judge, PairwiseJudge)
        else {"length": score_length_bias(cases, found, [float(label) for label in labels])}
    )
    return Certificate(
        judge=judge.described(),
        model=judge.model if isinstance(judge.model, str) else judge.model.name,
        rule=rule,
        calibration=calibration,
        items=gathered.content,
        people=gathered.people,
        when=datetime.now(UTC),
        domain=domain,
        left_out=gathered.left_out,
        unjudged=len(opinions) - len(judged),
        after=after,
        sources=sources,
        calls=usage.calls / max(1, len(judged)),
        usd=math.fsum(known) / max(1, len(known)) if len(known) == len(costs) else None,
        warnings=tuple(dict.fromkeys([*gathered.warnings, *calibration.warnings, *_warnings(judge, gathered, opinions)])),
        **biases,
    )


def _warnings(judge: AnyJudge, gathered: Gathered, opinions: Sequence[Opinion | None]) -> list[str]:
    failed = sum(opinion is None for opinion in opinions)
    ties = sum(one.label == "tie" for one in gathered.cases)
    found = [f"the judge failed on {failed} of {len(opinions)} items; such items stay ungraded"] if failed else []
    if isinstance(judge, PairwiseJudge) and not judge.options.ties and ties:
        found.append(f"people call {ties} pairs a tie, which this judge may not, so it disagrees there")
    return found


def grading(judge: AnyJudge) -> Judge:
    """The judge, if it can grade an episode. Raises `InputError` for a judge of pairs."""
    if isinstance(judge, PairwiseJudge):
        raise InputError("a judge of pairs says which of two answers is better, and cannot grade a single one", field="grader")
    return judge


def abstention(words: str, opinion: Opinion | None = None, parts: Mapping[str, float | None] | None = None) -> Grade:
    """No grade, and why."""
    confidence = None if opinion is None else opinion.confidence
    return Grade(score=None, words=words, confidence=confidence, abstained=True, parts=dict(parts or {}))
