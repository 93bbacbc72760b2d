"""How sure a judge is: by token probabilities, by what it states, or by the votes of simulated annotators.

Every question gives one ballot: probability mass on verdicts. Ballots are averaged over annotators and over both orders of a pair; the
verdict is the one with the largest mean mass, which is the confidence c(x) (Jung et al. 2024, "Trust or Escalate", arXiv:2407.18370).
Different from it: where only the mass on the given verdict is known (a sampled token's probability, a stated confidence), what is left of
1 is given to nobody, so that averages are rather too small than too large.

Token probabilities: a server is asked for its likeliest next tokens, by their text. A model in this process is held to each verdict in
turn. Where neither can be had, the sampled token's probability counts.
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
_SERVER = "endpoint:"
"""How the names of models begin that a server runs."""
LISTED = 20
"""So many of the likeliest tokens are asked for: as many as most servers list."""


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

    by: where the mass comes from. alternatives: with `token`, whether the probability of every verdict is asked for, in one call of a
    server, else one call of one token each (None: where it can be had: the server lists tokens; the model can be held to a schema and gives
    probabilities from before that). explain: ask for reasons; with `token` they are a call of their own before the digit, and the digit
    follows from them.
    """

    by: By
    asking: Asking
    alternatives: bool | None = None
    explain: bool = True
    _not_held: dict[str, str] = field(default_factory=dict)

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
        mass = await self._held(model, messages, question, tally) if self._may_hold(model) else None
        source = Source.ALTERNATIVES
        if mass is None:
            mass, source = await self._next_token(model, messages, question, tally)
        return _ballot(question, mass, leading(mass)[0], source, words)

    def _may_hold(self, model: Model) -> bool:
        return self.alternatives is not False and not model.name.startswith(_SERVER) and model.name not in self._not_held

    async def _held(self, model: Model, messages: Sequence[Message], question: Question, tally: Tally) -> dict[str, float] | None:
        """The probability of each verdict's digit, normalised, by holding the model to one after another; None where it cannot be held."""
        try:
            found = [await _forced(model, messages, digit, tally) for digit in question.digits]
        except (_NotForced, InputError) as refused:
            if isinstance(refused, InputError) and refused.field != "json_schema":
                raise
            self._not_held[model.name] = str(refused)
            return None
        total = math.fsum(found)
        if total > 1 + _ABOVE_ONE:
            self._not_held[model.name] = f"they sum to {total:.3f}, so they are from after the constraint"
            return None
        if total <= 0:
            raise GraderError(f"the judge {model.name} gives no verdict any probability")
        return {name: share / total for name, share in zip(question.digits.values(), found, strict=True)}

    async def _next_token(
        self, model: Model, messages: Sequence[Message], question: Question, tally: Tally
    ) -> tuple[dict[str, float], Source]:
        """The mass that the next token gives: of all verdicts where likely tokens are listed, else of the one that is sampled.

        Asked for once more where it is no digit.
        """
        sampling = Sampling(max_tokens=1, logprobs=True, top_logprobs=1 if self.alternatives is False else LISTED)
        digits = {str(digit): name for digit, name in question.digits.items()}
        for _ in range(2):
            completion = await ask(model, messages, sampling, tally)
            if self.alternatives is not False and (mass := _listed(completion, question)):
                return mass, Source.ALTERNATIVES
            text = completion.message.text
            if text.strip() in digits:
                share = _probability(completion, model)
                if self.alternatives:
                    why = self._not_held.get(model.name, "its server lists no likely tokens")
                    raise ModelUnavailable(
                        f"{model.name} does not give the probabilities of all verdicts ({why}); leave `alternatives` out"
                    )
                return {digits[text.strip()]: share}, Source.SAMPLED
            messages = again(messages, text, f"the {question.key} must be one of the digits {', '.join(sorted(digits))}")
        raise GraderError(f"the judge {model.name} began no reply with a digit; its last one began with {text[:40]!r}")


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


class _NotForced(ValueError):
    """The model cannot be held to a digit."""


async def _forced(model: Model, messages: Sequence[Message], digit: int, tally: Tally) -> float:
    """The probability of a digit as the next token. The output is held to it; the probability is the model's own."""
    sampling = Sampling(max_tokens=1, logprobs=True, json_schema={"type": "integer", "enum": [digit]})
    completion = await ask(model, messages, sampling, tally)
    if completion.message.text.strip() != str(digit):
        raise _NotForced(f"held to {digit} it replied {completion.message.text[:40]!r}")
    return _probability(completion, model)


def _listed(completion: Completion, question: Question) -> dict[str, float]:
    """The probability of each verdict's digit among the likeliest first tokens, normalised over all verdicts; empty where none is there.

    A verdict that is not listed counts with the most that it can have: as much as the least likely of the list, within what the list
    leaves of 1. So the shares of the others are rather too small than too large.
    """
    listed = completion.choices[0].likeliest if completion.choices else {}
    every = [math.exp(logprob) for logprob in listed.values()]
    found: dict[str, float] = {}
    for digit, name in question.digits.items():
        shares = [share for text, share in zip(listed, every, strict=True) if text.strip() == str(digit)]
        found |= {name: math.fsum(shares)} if shares else {}
    if not math.fsum(found.values()) > 0:
        return {}
    unlisted = min((len(question.digits) - len(found)) * min(every), max(0.0, 1 - math.fsum(every)))
    total = math.fsum(found.values()) + unlisted
    return {name: share / total for name, share in found.items()}


def _probability(completion: Completion, model: Model) -> float:
    """Of the sampled tokens together."""
    logprobs = completion.tokens.logprobs if completion.tokens is not None else tuple(choice.logprob for choice in completion.choices)
    if not logprobs:
        raise ModelUnavailable(
            f"the judge's model {model.name} gives no token probabilities; judge with `confidence: stated`, or with votes of simulated "
            "annotators (`confidence: votes`)"
        )
    share = math.exp(math.fsum(logprobs))
    if math.isnan(share):
        raise GraderError(f"the judge's model {model.name} gives a token probability that is no number")
    return min(share, 1.0)
