"""Tidying what an agent knows: near-duplicates become one, what harms or is contradicted goes, the rest fits a budget.

A learner, so that it can stand behind others: `curriculum: [expel, curate]`. What it measures, it measures on the training tasks, from
which the entries were drawn themselves: worth found there can be too high, never the other way round for long (see docs/upkeep.md).
"""

from __future__ import annotations

from typing import Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError, MissingExtra
from tutelage.knowledge import Knowledge
from tutelage.learner import Need
from tutelage.practice import Practice
from tutelage.retrieval.embedders import load_embedder
from tutelage.upkeep import (
    check_forgetting,
    count_all,
    decay,
    drop_unhelpful,
    expected_scores,
    fit_budget,
    merge_duplicates,
    observe,
)
from tutelage.worth import DRAWS, TOP, Worth, check_design, episodes_needed, measure_worth, with_worth

BY_MEANING, BY_WORDS = 0.95, 0.8
"""From which cosine, or which overlap of words, two texts are near-duplicates."""

Drop = Literal["harmful", "unhelpful", "none"]


class Curate:
    """Tidy the agent's knowledge.

    merge: join near-duplicates. measure: measure each entry's worth with `draws` episodes a training task, `top` retrieved entries one by
    one. drop: what was shown to harm (`harmful`), also what was measured and not shown to help (`unhelpful`: as much of it as exceeds the
    budget, or all where there is none), or nothing for its worth (`none`). half_life: also work on every training task once with all that
    is known, and drop what these episodes contradict; evidence of earlier episodes counts half after so many units of credit. tokens: the
    budget of all entries together. Entries that are pinned or a person's own stay.
    """

    name = "curate"
    needs = frozenset({Need.GRADES})

    def __init__(
        self,
        tokens: int | None = None,
        *,
        measure: bool = True,
        draws: int = DRAWS,
        top: int | None = TOP,
        merge: bool = True,
        drop: Drop = "harmful",
        half_life: float | None = None,
    ) -> None:
        if drop not in ("harmful", "unhelpful", "none"):
            raise InputError(f"`{drop}` is not something to drop; use harmful, unhelpful or none", field="learners.curate.drop")
        if tokens is not None and tokens < 0:
            raise InputError(f"a budget of tokens cannot be negative: {tokens}", field="learners.curate.tokens")
        check_forgetting(half_life)
        check_design(draws, 0.5, top)
        self.tokens, self.measure, self.draws, self.top = tokens, measure, draws, top
        self.merge, self.drop, self.half_life = merge, drop, half_life

    def described(self) -> dict[str, Any]:
        """The settings that decide what is kept."""
        names = ("tokens", "measure", "draws", "top", "merge", "drop", "half_life")
        return {self.name: {name: getattr(self, name) for name in names}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes at most: none is run where the agent knows nothing."""
        return n_tasks * ((self.draws if self.measure else 0) + (1 if self.half_life is not None else 0))

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with tidied knowledge. Raises `InputError` where what only people may remove exceeds the budget."""
        before = agent.knowledge
        knowledge = self._merged(before)
        merged = len(before.entries) - len(knowledge.entries)
        if self.half_life is not None and knowledge.entries:
            knowledge = await self._observed(agent.but(knowledge=knowledge), practice, self.half_life)
        worths: tuple[Worth, ...] = ()
        if self.measure and episodes_needed(knowledge, len(practice.tasks), self.draws):
            worths = await measure_worth(agent.but(knowledge=knowledge), practice, draws=self.draws, top=self.top)
            knowledge = with_worth(knowledge, worths)
        knowledge = self._dropped(knowledge)
        practice.note(
            entries_before=len(before.entries),
            entries_merged=merged,
            entries_dropped=len(before.entries) - merged - len(knowledge.entries),
            entries_kept=len(knowledge.entries),
            tokens_kept=count_all(knowledge),
            worth_verdicts=_counted(worths),
        )
        return agent.but(knowledge=knowledge)

    def _merged(self, knowledge: Knowledge) -> Knowledge:
        if not self.merge:
            return knowledge
        threshold, embedder = _likeness(knowledge)
        return merge_duplicates(knowledge, threshold, embedder, by=self.name)

    async def _observed(self, agent: Agent, practice: Practice, half_life: float) -> Knowledge:
        experiences = await practice.collect(agent)
        usual = expected_scores(practice.tasks, experiences)
        return decay(observe(agent.knowledge, experiences, half_life, expected=usual), by=self.name)

    def _dropped(self, knowledge: Knowledge) -> Knowledge:
        if self.drop != "none":
            over = (self.tokens or 0) if self.drop == "unhelpful" else None
            knowledge = drop_unhelpful(knowledge, unproven_over=over, by=self.name)
        return knowledge if self.tokens is None else fit_budget(knowledge, self.tokens, by=self.name)


def _likeness(knowledge: Knowledge) -> tuple[float, str | None]:
    """By the meaning that retrieval goes by, or by words where its embedder is not installed."""
    try:
        load_embedder(knowledge.retrieval.embedder)
    except MissingExtra:
        return BY_WORDS, None
    return BY_MEANING, knowledge.retrieval.embedder


def _counted(worths: tuple[Worth, ...]) -> dict[str, Any]:
    verdicts = [worth.verdict for worth in worths]
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
