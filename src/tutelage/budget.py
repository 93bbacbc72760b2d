"""What things cost, caps on it, and models whose calls are counted against the caps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from tutelage.errors import BudgetExceeded
from tutelage.model import Model
from tutelage.prices import Price, cost_of
from tutelage.records import Completion, Message, Record, Sampling, ToolSpec, Usage


class Budget(Record):
    """Caps on the whole study. None: no cap. Calls, tokens and money count over interrupted runs too; time is this run's own."""

    calls: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    usd: float | None = None


class Cost(Record):
    """What something cost. `usd` None: a price is unknown."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, usage: Usage, usd: float | None, seconds: float = 0.0) -> Cost:
        """The cost of some usage."""
        return cls(calls=usage.calls, tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, usd=usd, seconds=seconds)

    def plus(self, other: Cost) -> Cost:
        """Both together; an unknown price makes the whole unknown."""
        return Cost(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            usd=None if self.usd is None or other.usd is None else self.usd + other.usd,
            seconds=self.seconds + other.seconds,
        )

    def minus(self, other: Cost) -> Cost:
        """What came on top of `other`, which is a part of it."""
        return Cost(
            calls=self.calls - other.calls,
            tokens_in=self.tokens_in - other.tokens_in,
            tokens_out=self.tokens_out - other.tokens_out,
            usd=None if self.usd is None or other.usd is None else self.usd - other.usd,
            seconds=self.seconds - other.seconds,
        )


@dataclass(eq=False)
class Account:
    """What learning has cost. episodes: each by its `ref`, counted once however often it is asked for; they are a part of `cost`."""

    cost: Cost = Cost()
    episodes: dict[str, Cost] = field(default_factory=dict)
    _parts: list[Account] = field(default_factory=list)

    def spend(self, cost: Cost) -> None:
        """Add what was spent outside of episodes."""
        self.cost = self.cost.plus(cost)
        for part in self._parts:
            part.spend(cost)

    def count(self, episode: str, cost: Cost) -> None:
        """Add an episode, unless it is counted already."""
        if episode not in self.episodes:
            self.episodes[episode] = cost
            self.cost = self.cost.plus(cost)
        for part in self._parts:
            part.count(episode, cost)

    @contextmanager
    def part(self) -> Iterator[Account]:
        """What is spent while inside, by itself: with the episodes that were counted before and are asked for again."""
        part = Account()
        self._parts.append(part)
        try:
            yield part
        finally:
            self._parts.remove(part)


def outside(cost: Cost, episodes: Mapping[str, Cost]) -> Cost:
    """What of a cost was spent outside of these episodes, which are a part of it."""
    for episode in episodes.values():
        cost = cost.minus(episode)
    return cost


class Meter:
    """Counts what real calls cost and refuses the next one once a cap is reached. Calls in flight may pass a cap of tokens or money."""

    def __init__(self, budget: Budget, spent: Cost = Cost()) -> None:
        self.budget, self.spent = budget, spent
        self._calls_begun = spent.calls
        self._begun = monotonic()

    def begin_call(self) -> None:
        """Count a call; raises `BudgetExceeded` where a cap is reached."""
        checks = [
            ("calls", self._calls_begun, self.budget.calls),
            ("tokens", self.spent.tokens_in + self.spent.tokens_out, self.budget.tokens),
            ("minutes", (monotonic() - self._begun) / 60, self.budget.minutes),
            ("usd", self.spent.usd, self.budget.usd),
        ]
        for name, used, cap in checks:
            if used is not None and cap is not None and used >= cap:
                raise BudgetExceeded(
                    f"the budget of {cap:g} {name} is spent. Everything done is kept: raise `budget.{name}` and run again to continue"
                )
        self._calls_begun += 1

    def end_call(self, completion: Completion, price: Price | None) -> None:
        """Add what the call cost."""
        self.spent = self.spent.plus(Cost.of(completion.usage, cost_of(completion, price), completion.seconds))


class MeteredModel:
    """A model whose calls are counted against a budget."""

    def __init__(self, model: Model, meter: Meter, price: Price | None = None) -> None:
        self._model, self._meter = model, meter
        self.name, self.native_tools, self.price = model.name, model.native_tools, price or model.price

    async def complete(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()) -> Completion:
        """Count, call, add the cost."""
        self._meter.begin_call()
        completion = await self._model.complete(messages, tools=tools, sampling=sampling)
        self._meter.end_call(completion, self.price)
        return completion
