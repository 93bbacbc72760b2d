"""What a judge was calibrated on and what is promised, and its file.

A certificate holds for items like the labelled ones, and for the judge exactly as it was: it is not accepted for a judge whose model,
prompts, criteria or options have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.graders.agreement import Agreement
from tutelage.graders.guarantee import Calibration
from tutelage.graders.judge import Judge
from tutelage.graders.judge_bias import LengthBias, PlaceBias, ScoreLengthBias
from tutelage.graders.judge_confidence import Opinion
from tutelage.graders.judge_labels import Range
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.model import Model
from tutelage.records import Record, content_id
from tutelage.suggest import missing_file

AnyJudge = Judge | PairwiseJudge
Kind = Literal["calibrated", "cascade"]

FORMAT = 1
_NEAR = 1e-9


class Rule(Record):
    """When a judge's score agrees with people's: both on the same side of `success` or, where `within` is given, at most so far apart.

    Both are in the judge's range, 0 to 1; score_range: the worst and the best score that people could give, which become 0 and 1.
    Verdicts on pairs agree where they are equal.
    """

    success: float = 0.5
    within: float | None = Field(default=None, ge=0)
    score_range: Range = (0.0, 1.0)

    def agrees(self, opinion: Opinion, label: str | float) -> bool:
        """Whether the judge says what people say (in [0, 1])."""
        if isinstance(label, str) or opinion.score is None:
            return opinion.verdict == label
        if self.within is None:
            return (opinion.score >= self.success - _NEAR) == (label >= self.success - _NEAR)
        return abs(opinion.score - label) <= self.within + _NEAR


class Certificate(Record):
    """What was promised for a judge, and on what evidence.

    judge: all that decides its verdicts. model: its model as it was named. items: a hash of the labelled items. domain: what kind of items
    they are, in the words of whoever calibrated. left_out: items on which people did not settle. unjudged: items on which the judge failed.
    after: the certificates of the judges that are asked before it in a cascade; it was calibrated on what these did not accept.
    sources: where its confidence came from. calls, usd: of one judged item, on average (usd None: a price is unknown).
    """

    judge: dict[str, Any]
    model: str
    rule: Rule
    calibration: Calibration
    items: str
    people: Agreement
    when: datetime
    domain: str = ""
    left_out: int = 0
    unjudged: int = 0
    after: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    calls: float = 0.0
    usd: float | None = 0.0
    place: PlaceBias | None = None
    length: LengthBias | ScoreLengthBias | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def id(self) -> str:
        """Hash of what is promised, for which judge and on what evidence; the time and the diagnostics do not enter."""
        names = ("judge", "rule", "calibration", "items", "domain", "after")
        content = self.canonical()
        return content_id({name: content.get(name) for name in names})

    def lines(self) -> list[str]:
        """For a report."""
        found, alpha = self.calibration, self.people.krippendorff
        agree = "cannot be told from these labels" if alpha is None else f"{alpha:.2f}"
        decides = "it abstains always: nothing passed the calibration"
        if found.threshold is not None and found.bound is not None:
            decides = (
                f"it decides where its confidence is {found.threshold:.4g} or more: {found.accepted} of {found.n} items "
                f"({found.coverage:.1%}), of which {found.errors} disagree (bound {found.bound:.1%})"
            )
        return [
            f"promised: agreement of at least {1 - found.alpha:g} where it decides, with probability {1 - found.delta:g} over the labels",
            decides,
            f"calibrated on {found.n} items{f' of {self.domain}' if self.domain else ''} (hash {self.items})",
            f"people's own agreement (Krippendorff's alpha): {agree}",
            f"its confidence: {', '.join(self.sources) or 'none was given'}",
            *(self.place.lines() if self.place else []),
            *(self.length.lines() if self.length else []),
            *(f"warning: {warning}" for warning in self.warnings),
        ]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes a judge another one than it was, in words; empty where it is the same."""
    if then.get("kind") != now.get("kind"):
        return [f"it was for a judge of kind {then.get('kind')}, and this one is of kind {now.get('kind')}"]
    found = [f"its model is {now['model']}, and was {then.get('model')}"] if then.get("model") != now["model"] else []
    before, after = then.get("options") or {}, now["options"]
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    found += [f"its {name} changed" if name == "criteria" else f"its option `{name}` changed" for name in changed]
    if not found and then.get("prompts") != now["prompts"]:
        found.append("the prompts of judges changed with the version of tutelage")
    return found


def require_same(certificate: Certificate, judge: AnyJudge, file: str | Path | None = None) -> None:
    """Raise `InputError`, saying why, where the certificate is not this judge's."""
    if changed := differences(certificate.judge, judge.described()):
        message = f"the certificate is not valid for this judge: {'; '.join(changed)}. Calibrate the judge again"
        raise InputError(message, file=file, field="grader")


def require_domain(certificate: Certificate, domain: str | None, file: str | Path | None = None) -> None:
    """Raise `InputError` where a domain is named, and the certificate is for another one."""
    if domain is not None and domain != certificate.domain:
        was = f"`{certificate.domain}`" if certificate.domain else "no domain that was named"
        raise InputError(
            f"the certificate is for {was}, and not for `{domain}`; calibrate on items of that kind", file=file, field="domain"
        )


def remade(certificate: Certificate, model: str | Model | None = None) -> AnyJudge:
    """The judge of a certificate, made again. model: in place of the one it names. Raises `InputError` where it cannot be made."""
    made = PairwiseJudge if certificate.judge.get("kind") == "pairwise" else Judge
    options = dict(certificate.judge.get("options") or {})
    return made(model or certificate.model, **{"criteria": "", **options})


def write_certificates(path: str | Path, kind: Kind, certificates: Sequence[Certificate]) -> None:
    """Raises `StoreError` where the file cannot be written."""
    rows = [{"id": one.id, **one.model_dump(mode="json", exclude_defaults=True)} for one in certificates]
    content = {"format": FORMAT, "kind": kind, "certificates": rows}
    write_atomically(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def kind_of_file(path: str | Path) -> Kind:
    """Whether a file holds a calibrated judge or a cascade. Raises `InputError` where it holds neither."""
    kind = _judged(path)["kind"]
    if kind not in get_args(Kind):
        raise InputError(f"it holds a grader of the kind `{kind}`, which this version does not know", file=path, field="kind")
    return "cascade" if kind == "cascade" else "calibrated"


def _judged(path: str | Path) -> dict[str, Any]:
    content = _content(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("certificates"), list) or "kind" not in content:
        raise InputError("this is no file of a calibrated judge; `tutelage judge calibrate` writes one", file=path)
    return content


def read_certificates(path: str | Path, kind: Kind) -> tuple[Certificate, ...]:
    """Raises `InputError` for a file that is absent, something else, from a newer version, or changed since it was written."""
    content = _judged(path)
    if content.get("format") != FORMAT:
        raise InputError(f"written in the format {content.get('format')}, and this version reads {FORMAT}", file=path, field="format")
    if content["kind"] != kind:
        raise InputError(f"it holds a `{content['kind']}` grader, and not a `{kind}` one", file=path, field="kind")
    return tuple(_certificate(row, path) for row in content["certificates"])


def _content(path: Path) -> Any:
    if not path.is_file():
        raise missing_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON, so it is no file of a calibrated judge: {error}", file=path) from None


def _certificate(row: Any, path: str | Path) -> Certificate:
    fields = dict(row) if isinstance(row, dict) else {}
    stated = fields.pop("id", None)
    try:
        found = Certificate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(first["msg"], file=path, field=".".join(map(str, first["loc"]))) from None
    if found.id != stated:
        raise InputError("the certificate was changed after it was written, so nothing is promised; calibrate again", file=path, field="id")
    return found
