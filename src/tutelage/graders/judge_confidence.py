"""How sure a judge is: by token probabilities, by what it states, or by the votes of simulated annotators.

Every question gives one ballot: probability mass on verdicts. Ballots are averaged over annotators and over both orders of a pair; the
verdict is the one with the largest mean mass, which is the confidence c(x) (Jung et al. 2024, "Trust or Escalate", arXiv:2407.18370).
Different from it: where only the mass on the given verdict is known (a sampled token's probability, a stated confidence), what is left of
1 is given to nobody, so that averages are rather too small than too large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import Field

from tutelage.errors import GraderError, InputError, ModelUnavailable
from tutelage.graders.judge_prompts import Asked, By, Question, again
from tutelage.graders.judge_reply import Asking, Tally, ask
from tutelage.model import Model
from tutelage.records import Completion, Message, Record, Sampling, Usage

_ABOVE_ONE = 1e-3
"""Probabilities of single tokens that sum to more than 1 by this much are not from one distribution."""


class Source(StrEnum):
    """Where a ballot's mass comes from."""

    ALTERNATIVES = "token probabilities, normalised over all verdicts"
    SAMPLED = "the probability of the sampled token"
    STATED = "the confidence that the model states"
    VOTE = "one vote"
    RULE = "a rule; no model was asked"


class Ballot(Record):
    """The mass that one question gave to verdicts; what is left of 1 is unknown. swapped: the second answer was shown first."""

    mass: dict[str, float]
    verdict: str
    source: Source
    words: str = ""
    criterion: str = ""
    annotator: str = ""
    swapped: bool = False


class Opinion(Record):
    """What a judge thinks of a case, with what it took to find out.

    verdict: a score's digit, or of a pair `a`, `b` or `tie`; of several criteria empty. score: in [0, 1], None for a pair. confidence:
    c(x). mass: mean mass by verdict (of one criterion). parts: the criteria's scores. consistent: whether a pair's verdict is the same in
    both orders. cost_usd None: a price is unknown.
    """

    verdict: str
    score: float | None
    confidence: float
    mass: dict[str, float] = Field(default_factory=dict)
    words: str = ""
    parts: dict[str, float | None] = Field(default_factory=dict)
    consistent: bool | None = None
    ballots: tuple[Ballot, ...] = ()
    usage: Usage = Usage()
    cost_usd: float | None = 0.0

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the confidence comes from."""
        return tuple(dict.fromkeys(ballot.source for ballot in self.ballots))


def mean_mass(ballots: Sequence[Ballot]) -> dict[str, float]:
    """The mean mass of each verdict that any ballot names."""
    names = dict.fromkeys(name for ballot in ballots for name in ballot.mass)
    return {name: math.fsum(ballot.mass.get(name, 0.0) for ballot in ballots) / len(ballots) for name in names}


def leading(mass: Mapping[str, float]) -> list[str]:
    """The verdicts with the largest mass; several where it is the same but for rounding."""
    most = max(mass.values())
    return [name for name, value in mass.items() if math.isclose(value, most, rel_tol=1e-9, abs_tol=1e-12)]


@dataclass
class Polling:
    """Asks one question and reads a ballot from the reply.

    by: where the mass comes from. alternatives: with `token`, whether the probability of every verdict is asked for, one call of one token
    each (None: where the model can be held to a schema and gives probabilities from before that). explain: ask for reasons; with `token`
    they are a call of their own before the digit, and the digit follows from them.
    """

    by: By
    asking: Asking
    alternatives: bool | None = None
    explain: bool = True
    _sampled_only: set[str] = field(default_factory=set)

    async def ballot(self, model: Model, question: Question, tally: Tally) -> Ballot:
        """Raises `GraderError` where the judge fails, and `ModelUnavailable` where the model gives no token probabilities at all."""
        if self.by == "token":
            return await self._by_tokens(model, question, tally)
        said = await self.asking.said(model, question, tally)
        share = 1.0 if said.confidence is None else said.confidence
        source = Source.VOTE if said.confidence is None else Source.STATED
        return _ballot(question, {question.digits[said.digit]: share}, question.digits[said.digit], source, said.why)

    async def _by_tokens(self, model: Model, question: Question, tally: Tally) -> Ballot:
        words, messages = "", question.messages("digit")
        if self.explain:
            reasons = await ask(model, question.messages("reasons"), Sampling(max_tokens=self.asking.max_tokens), tally)
            words = reasons.message.text.strip()
            messages = question.after_reasons(words or "(nothing)")
        mass = await self._alternatives(model, messages, question, tally)
        if mass is not None:
            return _ballot(question, mass, _first_leading(mass), Source.ALTERNATIVES, words)
        digit, share = await _sampled(model, messages, question, tally)
        name = question.digits[digit]
        return _ballot(question, {name: share}, name, Source.SAMPLED, words)

    async def _alternatives(self, model: Model, messages: Sequence[Message], question: Question, tally: Tally) -> dict[str, float] | None:
        """The probability of each verdict's digit, normalised; None where they cannot be had."""
        if self.alternatives is False or (self.alternatives is None and model.name in self._sampled_only):
            return None
        try:
            found = [await _forced(model, messages, digit, tally) for digit in question.digits]
        except (_NotForced, InputError) as refused:
            if isinstance(refused, InputError) and refused.field != "json_schema":
                raise
            self._cannot(model, str(refused))
            return None
        total = math.fsum(found)
        if total > 1 + _ABOVE_ONE:
            self._cannot(model, f"they sum to {total:.3f}, so they are from after the constraint")
            return None
        if total <= 0:
            raise GraderError(f"the judge {model.name} gives no verdict any probability")
        return {name: share / total for name, share in zip(question.digits.values(), found, strict=True)}

    def _cannot(self, model: Model, why: str) -> None:
        if self.alternatives:
            raise ModelUnavailable(f"{model.name} does not give the probabilities of all verdicts ({why}); leave `alternatives` out")
        self._sampled_only.add(model.name)


def polling(options: Asked) -> Polling:
    """What asks as the options say."""
    return Polling(options.confidence, Asking(options.structured, options.max_tokens), options.alternatives, options.explain)


def _ballot(question: Question, mass: dict[str, float], verdict: str, source: Source, words: str) -> Ballot:
    return Ballot(
        mass=mass,
        verdict=verdict,
        source=source,
        words=words,
        criterion=question.criterion,
        annotator=question.annotator,
        swapped=question.swapped,
    )


def _first_leading(mass: Mapping[str, float]) -> str:
    return leading(mass)[0]


class _NotForced(ValueError):
    """The model cannot be held to a digit."""


async def _forced(model: Model, messages: Sequence[Message], digit: int, tally: Tally) -> float:
    """The probability of a digit as the next token. The output is held to it; the probability is the model's own."""
    sampling = Sampling(max_tokens=1, logprobs=True, json_schema={"type": "integer", "enum": [digit]})
    completion = await ask(model, messages, sampling, tally)
    if completion.message.text.strip() != str(digit):
        raise _NotForced(f"held to {digit} it replied {completion.message.text[:40]!r}")
    return _probability(completion, model)


async def _sampled(model: Model, messages: Sequence[Message], question: Question, tally: Tally) -> tuple[int, float]:
    """The digit that the model gives as its next token, and that token's probability; asked for once more where it is none."""
    sampling = Sampling(max_tokens=1, logprobs=True)
    digits = {str(digit): digit for digit in question.digits}
    for _ in range(2):
        completion = await ask(model, messages, sampling, tally)
        text = completion.message.text
        if text.strip() in digits:
            return digits[text.strip()], _probability(completion, model)
        messages = again(messages, text, f"the {question.key} must be one of the digits {', '.join(sorted(digits))}")
    raise GraderError(f"the judge {model.name} began no reply with a digit; its last one began with {text[:40]!r}")


def _probability(completion: Completion, model: Model) -> float:
    if completion.tokens is None or not completion.tokens.logprobs:
        raise ModelUnavailable(
            f"the judge's model {model.name} gives no token probabilities; judge with `confidence: stated`, or with simulated annotators"
        )
    share = math.exp(math.fsum(completion.tokens.logprobs))
    if math.isnan(share):
        raise GraderError(f"the judge's model {model.name} gives a token probability that is no number")
    return min(share, 1.0)
