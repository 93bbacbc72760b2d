"""Judges from a YAML file: one, or several for a cascade.

model: gguf:smollm2-135m
criteria: The answer is right.
confidence: token              # and every other option of `Judge`, or of `PairwiseJudge` where `kind: pairs`
annotators: {n: 3, k: 3}       # people to simulate, by examples from the labels, on which it is then not calibrated
levels:                        # a cascade, cheapest first; each is what stands above, with these keys changed
  - {}
  - {model: "endpoint:big", confidence: stated, annotators: null}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tutelage.errors import InputError
from tutelage.graders.certificate import AnyJudge, Rule
from tutelage.graders.judge import Judge, Options
from tutelage.graders.judge_labels import simulated_annotators
from tutelage.graders.judge_pairwise import PairOptions, PairwiseJudge
from tutelage.graders.judge_prompts import Annotator
from tutelage.graders.labels import Labelled, read_labelled
from tutelage.suggest import unknown
from tutelage.yaml_file import Where, YamlFile, read_yaml


class People(BaseModel):
    """People to simulate: see `simulated_annotators`. labels: a file of their own in our names (None: the labels to calibrate on)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(3, ge=1)
    k: int = Field(3, ge=1)
    people: bool | None = None
    seed: int = 0
    labels: str | None = None


class Shared(BaseModel):
    """What a file says beside a judge's own options. agree: when judge and people say the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agree: Rule = Rule()
    domain: str = ""
    levels: list[dict[str, Any]] = []


class Asked(BaseModel):
    """What makes one judge, beside its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    kind: Literal["score", "pairs"] = "score"
    annotators: People | None = None


@dataclass(frozen=True)
class Made:
    """Judges in the order of asking, the labels that none of them has seen, and the rest of the file. cascade: whether it has levels."""

    judges: tuple[AnyJudge, ...]
    labelled: tuple[Labelled, ...]
    rule: Rule
    domain: str
    cascade: bool


def read_judges(path: str | Path, labelled: Sequence[Labelled] = ()) -> Made:
    """The judges of a file, those with simulated annotators by examples from `labelled`. Raises `InputError` naming file, line and key."""
    file = read_yaml(path)
    shared = _part(file, Shared, file.data)
    own = {key: value for key, value in file.data.items() if key not in Shared.model_fields}
    rows: list[tuple[dict[str, Any], Where]] = [({**own, **level}, ("levels", place)) for place, level in enumerate(shared.levels)]
    rows = rows or [(own, ())]
    judges = tuple(_judge(file, row, where, labelled, shared.agree) for row, where in rows)
    seen = {example.case.content for judge in judges for one in judge.options.annotators for example in one.examples}
    left = tuple(one for one in labelled if one.content not in seen)
    return Made(judges, left, shared.agree, shared.domain, cascade=bool(shared.levels))


def make_judge(data: Mapping[str, Any]) -> AnyJudge:
    """A judge from the keys of such a file, without annotators and levels. Raises `InputError`."""
    asked = Asked.model_validate({key: value for key, value in data.items() if key in Asked.model_fields})
    return _made(asked, {key: value for key, value in data.items() if key not in Asked.model_fields}, ())


def _part(file: YamlFile, kind: type[Any], data: Mapping[str, Any], where: Where = ()) -> Any:
    """Those of the keys that this model knows, checked."""
    own = {key: value for key, value in data.items() if key in kind.model_fields}
    try:
        return YamlFile(file.path, own, file.lines).parse(kind)
    except InputError as wrong:
        if not where:
            raise
        raise file.error(wrong.message, (*where, *(wrong.field or "").split("."))) from None


def _judge(file: YamlFile, data: dict[str, Any], where: Where, labelled: Sequence[Labelled], rule: Rule) -> AnyJudge:
    asked: Asked = _part(file, Asked, data, where)
    options = {key: value for key, value in data.items() if key not in Asked.model_fields}
    known = (PairOptions if asked.kind == "pairs" else Options).model_fields
    for key in options:
        if key not in known:
            raise file.error(unknown("a key of a judge", key, [*Asked.model_fields, *Shared.model_fields, *known]), (*where, key))
    if "criteria" not in options:
        raise file.error("say in plain words what the judge goes by", (*where, "criteria"))
    try:
        return _made(asked, options, _people(file, asked.annotators, labelled, rule))
    except InputError as wrong:
        raise file.error(wrong.message, (*where, (wrong.field or "model").split(".")[-1])) from None


def _made(asked: Asked, options: Mapping[str, Any], annotators: tuple[Annotator, ...]) -> AnyJudge:
    kind = PairwiseJudge if asked.kind == "pairs" else Judge
    return kind(asked.model, **{**options, **({"annotators": annotators} if annotators else {})})


def _people(file: YamlFile, wanted: People | None, labelled: Sequence[Labelled], rule: Rule) -> tuple[Annotator, ...]:
    if wanted is None:
        return ()
    given = read_labelled(file.path.parent / wanted.labels) if wanted.labels else labelled
    if not given:
        raise InputError("to simulate people, labels are needed", field="annotators")
    return simulated_annotators(given, wanted.n, wanted.k, people=wanted.people, seed=wanted.seed, score_range=rule.score_range)
