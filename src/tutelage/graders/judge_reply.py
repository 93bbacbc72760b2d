"""Reading a judge's reply: a JSON object where the model can be held to one, else a few lines of text, read leniently and checked.

What cannot be read is asked for once more, with the error shown; then the judge has failed (`GraderError`), which blames no agent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import GraderError, InputError, ModelFailed
from tutelage.graders.judge_prompts import Question, again
from tutelage.model import Model
from tutelage.prices import cost_of
from tutelage.records import Completion, Message, Sampling, Usage

_VALUE = r"\b[\"'*_\s]*(?:\([^)\n]*\))?(?:is\b)?[\"'*_\s]*[:=]?[\"'*_\s]*(-?\d+(?:\.\d+)?)"
_STATED = re.compile(rf"\bconfidence{_VALUE}", re.IGNORECASE)
_AFTER_WHY = r"\Z|^[\W_]*(?:score|verdict|confidence)\b|\"\s*,\s*\"(?:score|verdict|confidence)\""
_WHY = re.compile(rf"\bwhy\b[\"'*_ ]*[:=][\"'*_ ]*(.+?)\s*(?={_AFTER_WHY})", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_KEYED = {key: re.compile(rf"\b{key}{_VALUE}", re.IGNORECASE) for key in ("score", "verdict")}


class Unreadable(ValueError):
    """A reply that is no verdict; says what is wrong, in words for the model."""


@dataclass(frozen=True)
class Said:
    """What a reply says. confidence: in [0, 1], None where it was not asked for."""

    digit: int
    why: str = ""
    confidence: float | None = None


@dataclass
class Tally:
    """What the calls for one opinion used and cost. cost_usd None: a price is unknown."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0

    def add(self, completion: Completion, model: Model) -> None:
        """Count a reply."""
        cost = cost_of(completion, model.price)
        self.usage = self.usage + completion.usage
        self.cost_usd = None if self.cost_usd is None or cost is None else self.cost_usd + cost


@dataclass
class Asking:
    """Asks a model, and remembers what it cannot do. structured: whether it is held to a JSON Schema (None: where it can be)."""

    structured: bool | None = None
    max_tokens: int = 400
    _refused: set[str] = field(default_factory=set)

    async def said(self, model: Model, question: Question, tally: Tally) -> Said:
        """The verdict that the model writes. Raises `GraderError` where there is none in two replies, or the model failed."""
        by_schema = self.structured or (self.structured is None and model.name not in self._refused)
        if not by_schema:
            return await self._twice(model, question.messages("lines"), question, Sampling(max_tokens=self.max_tokens), tally)
        sampling = Sampling(max_tokens=self.max_tokens, json_schema=question.schema)
        try:
            return await self._twice(model, question.messages("json"), question, sampling, tally)
        except InputError as refused:
            if refused.field != "json_schema" or self.structured:
                raise
            self._refused.add(model.name)
            return await self.said(model, question, tally)

    async def _twice(self, model: Model, messages: Sequence[Message], question: Question, sampling: Sampling, tally: Tally) -> Said:
        completion = await ask(model, messages, sampling, tally)
        try:
            return read(completion, question)
        except Unreadable as problem:
            repeated = again(messages, completion.message.text, str(problem))
        completion = await ask(model, repeated, sampling, tally)
        try:
            return read(completion, question)
        except Unreadable as problem:
            shown = completion.message.text[:200]
            raise GraderError(f"the judge {model.name} gave no readable verdict in two replies; {problem}: {shown!r}") from None


async def ask(model: Model, messages: Sequence[Message], sampling: Sampling, tally: Tally) -> Completion:
    """One reply. A failed call is the judge's failure (`GraderError`)."""
    try:
        completion = await model.complete(messages, sampling=sampling)
    except ModelFailed as failed:
        raise GraderError(f"the judge's model failed: {failed}{_hint(sampling, str(failed))}") from failed
    tally.add(completion, model)
    return completion


def _hint(sampling: Sampling, failed: str) -> str:
    """What to change where a server refuses what is asked of it (a status of 400 to 499)."""
    if "status 4" not in failed:
        return ""
    if sampling.json_schema is not None:
        held = "alternatives" if sampling.logprobs else "structured"
        return f"; if its server knows no JSON Schema, set `{held}: false`"
    if sampling.top_logprobs:
        return '; if it gives no token probabilities, set `confidence: stated`; if it lists fewer, name it with ?extra={"top_logprobs":5}'
    return ""


def read(completion: Completion, question: Question) -> Said:
    """What a reply says. Raises `Unreadable`."""
    text = completion.message.text.strip()
    fields = _object(text) or _lines(text, question.key)
    if question.key not in fields:
        cut = " (it was cut off; be brief)" if completion.finish == "length" else ""
        raise Unreadable(f"it holds no `{question.key}`{cut}")
    digit = _digit(fields[question.key], question)
    return Said(digit, str(fields.get("why") or "").strip(), _confidence(fields.get("confidence")) if question.stated else None)


def _digit(value: Any, question: Question) -> int:
    number = _float(value)
    if number is None or number not in question.digits:
        digits = ", ".join(map(str, sorted(question.digits)))
        raise Unreadable(f"`{question.key}` must be one of {digits}, and is {str(value)[:40]}")
    return int(number)


def _confidence(value: Any) -> float:
    """Percent as a share; a fraction that is written with a point (0.85) is taken as one."""
    if value is None:
        raise Unreadable("it holds no `confidence`")
    number = _float(value)
    if number is None or not 0 <= number <= 100:
        raise Unreadable(f"`confidence` must be a whole number from 0 to 100, and is {str(value)[:40]}")
    return number if number <= 1 and "." in str(value) else number / 100


def _float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in the text, from the first opening bracket to the last closing one; None where there is none that can be read."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[begin : end + 1], strict=False) if 0 <= begin < end else None
    except (ValueError, RecursionError):
        return None
    return {str(key).strip().lower(): item for key, item in value.items()} if isinstance(value, dict) else None


def _lines(text: str, key: str) -> dict[str, Any]:
    """Fields as lines of text, or within broken JSON. The last verdict counts: reasons may quote what others wrote."""
    found = {key: _KEYED[key].findall(text), "confidence": _STATED.findall(text)}
    fields: dict[str, Any] = {name: values[-1] for name, values in found.items() if values}
    why = _WHY.search(text)
    return fields | ({"why": why[1].strip(' "*,')} if why else {})
