"""A judge with a promise: where it does not abstain, it agrees with people at least 1 - alpha of the time, with probability 1 - delta.

Source: Jung, Brahman and Choi 2024, "Trust or Escalate" (arXiv:2407.18370); the threshold and what it claims: `graders.guarantee`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Self

from tutelage.errors import InputError
from tutelage.graders.certificate import (
    AnyJudge,
    Certificate,
    Kind,
    Rule,
    read_certificates,
    remade,
    require_domain,
    require_same,
    write_certificates,
)
from tutelage.graders.judge import Judge, grade_of
from tutelage.graders.judge_calibration import Wanted, certify_levels
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Opinion, Source
from tutelage.graders.judge_models import Models
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled
from tutelage.graders.monitored import require_standing
from tutelage.model import Model
from tutelage.progress import Progress
from tutelage.records import Episode, Grade, Task

ALPHA, DELTA = 0.1, 0.1
_RULE = Rule()


class CalibratedJudge:
    """A judge that abstains where it is not sure enough. As a grader it then gives no score (`abstained`), which is never 0.

    It abstains as well where its confidence comes from another source than in its calibration, such as the sampled token alone where the
    server then listed all likely ones: such numbers are not alike. A calibrated judge of pairs is no grader; `opinion` says which of two
    answers is better, and `accepts` whether that may stand. Raises `InputError` where the certificate is not this judge's. Its name holds
    the certificate's id.
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
        return self.certificate.calibration.accepts(opinion.confidence) and not self._new_sources(opinion)

    def _new_sources(self, opinion: Opinion) -> list[str]:
        known = {*self.certificate.sources, Source.RULE.value}
        return [source.value for source in opinion.sources if source.value not in known]

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
        if new := self._new_sources(opinion):
            was = ", ".join(self.certificate.sources)
            return f"the judge's confidence comes from {', '.join(new)}, and it was calibrated on {was}; calibrate it again"
        return f"the judge is not sure enough: its confidence is {opinion.confidence:.3g}, and {needed:.3g} is needed"

    def check(self, task: Task) -> None:
        """What the judge needs. Raises `InputError` for a judge of pairs."""
        grading(self.judge).check(task)

    def save(self, path: str | Path) -> None:
        """Write the certificate, from which `load_calibrated` makes the grader again. Raises `StoreError`."""
        save_levels(path, "calibrated", [self])


def save_levels(path: str | Path, kind: Kind, levels: Sequence[CalibratedJudge]) -> None:
    """Write the certificates, from which `load_levels` makes the judges again. Raises `StoreError`."""
    write_certificates(path, kind, [level.certificate for level in levels])


def load_levels(
    file: str | Path,
    kind: Kind,
    judges: Sequence[AnyJudge] | None = None,
    *,
    model: str | Model | None = None,
    domain: str | None = None,
) -> list[CalibratedJudge]:
    """The calibrated judges of a file, the one that is asked first first. The arguments and errors are those of `load_calibrated`."""
    certificates = read_certificates(file, kind)
    if judges is not None and len(judges) != len(certificates):
        raise InputError(f"the file has {len(certificates)} levels, and {len(judges)} judges were given", file=file)
    require_standing(file, certificates)
    levels = []
    for place, certificate in enumerate(certificates):
        require_domain(certificate, domain, file)
        judge = judges[place] if judges is not None else remade(certificate, model)
        require_same(certificate, judge, file)
        levels.append(CalibratedJudge(judge, certificate))
    return levels


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
    return load_levels(file, "calibrated", None if judge is None else [judge], model=model, domain=domain)[0]


async def calibrate(
    judge: AnyJudge,
    labelled: Sequence[Labelled],
    alpha: float = ALPHA,
    delta: float = DELTA,
    *,
    min_items: int | None = None,
    rule: Rule = _RULE,
    domain: str = "",
    progress: Progress | None = None,
) -> CalibratedJudge:
    """Find the confidence from which the judge agrees with people's majority at least 1 - alpha of the time, with probability 1 - delta.

    The labels should be new to everything that shaped the judge: its criteria, its simulated annotators. Of the items on which people did
    not settle, or the judge failed, nothing is learned; both are counted. min_items: items that a threshold needs (None: 30 or more, see
    `guarantee.first_test`). A judge bound to models that keep their replies asks nothing twice, so an interrupted calibration continues.

    Raises `InputError` before anything is spent where the labels are too few or not of the judge's kind, or hold examples of its
    annotators; `GraderError` where the judge fails on every item.
    """
    (certificate,) = await certify_levels([judge], labelled, Wanted(alpha, delta, min_items, rule, domain), progress)
    return CalibratedJudge(judge, certificate)


def grading(judge: AnyJudge) -> Judge:
    """The judge, if it can grade an episode. Raises `InputError` for a judge of pairs."""
    if isinstance(judge, PairwiseJudge):
        raise InputError("a judge of pairs says which of two answers is better, and cannot grade a single one", field="grader")
    return judge


def abstention(words: str, opinion: Opinion | None = None, parts: Mapping[str, float | None] | None = None) -> Grade:
    """No grade, and why."""
    confidence = None if opinion is None else opinion.confidence
    return Grade(score=None, words=words, confidence=confidence, abstained=True, parts=dict(parts or {}))
