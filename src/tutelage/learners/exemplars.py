"""Learning from exemplars: solved cases shown in the prompt, the same for every task (fixed) or the most similar ones (dynamic).

Sources: few-shot prompting (Brown et al. 2020, arXiv:2005.14165) for the fixed form; retrieved examples (Liu et al. 2022,
arXiv:2101.06804) and case-based reasoning (retrieve, adapt, act, store) for the dynamic one. Different from them: near-duplicates are
not shown twice, and a task is never shown its own case.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.history import add, remove_all
from tutelage.knowledge import Choose, Exemplar, Knowledge, Order, Retrieval
from tutelage.learner import Need
from tutelage.memory import Memory
from tutelage.practice import Practice
from tutelage.records import Episode, Experience, Message, Step, Task
from tutelage.tasks import reference_messages

Origin = Literal["reference", "success", "both"]

GROW_EVERY = 8
"""A growing memory takes in new cases after every so many tasks, in the order of the tasks, so that what each task saw does not depend on
timing and an interrupted run continues exactly."""


class Exemplars:
    """Show solved cases in the prompt.

    choose: `fixed` (the same k for every task, spread over the kinds of tasks), `text` (BM25), `meaning` (embeddings), `fused` (both).
    source: `reference` (the tasks' reference answers; costs nothing), `success` (the agent's own episodes with a score of at least
    `threshold`), `both` (own successes, and references for the tasks that it did not solve). grow: while practising, show what has been
    solved so far. attempts: tries per task when collecting successes. The other options are those of `Retrieval`.
    """

    name = "exemplars"

    def __init__(
        self,
        choose: Choose = "fixed",
        k: int = 6,
        *,
        source: Origin = "reference",
        grow: bool = False,
        attempts: int = 1,
        threshold: float = 1.0,
        order: Order = "best_last",
        token_budget: int | None = None,
        **retrieval: Any,
    ) -> None:
        _check(choose, k, source, attempts)
        if grow and source == "reference":
            raise InputError("a memory grows from the agent's own successes; set source to `success` or `both`", field="grow")
        self.retrieval = Retrieval(choose=choose, k=k, order=order, token_budget=token_budget, **retrieval)
        self.source, self.grow, self.attempts, self.threshold = source, grow, attempts, threshold
        self.needs = frozenset({Need.REFERENCES} if source == "reference" else {Need.GRADES})

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return f"{self.name}-{self.retrieval.choose}"

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        own = {"source": self.source, "grow": self.grow, "attempts": self.attempts, "threshold": self.threshold}
        return {"exemplars": self.retrieval.model_dump(mode="json") | own}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes that learning will run."""
        return 0 if self.source == "reference" else n_tasks * self.attempts

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with exemplars in its knowledge.

        Where it never succeeded there is nothing to show: the agent is given back as it was, and the report says so. Raises `InputError`
        where references are to be shown and no training task has one.
        """
        cases = await self._cases(agent, practice)
        if not cases and self.source == "reference":
            raise InputError(
                "no training task has a reference answer to show; add references, or set source to `success`",
                field="learners.exemplars.source",
            )
        if not cases:
            practice.note(nothing_learned=self._nothing_found())
            return agent
        kept = spread(cases, self.retrieval.k, practice.seed) if self.retrieval.choose == "fixed" else cases
        return agent.but(knowledge=with_exemplars(agent.knowledge, kept, self.retrieval, by=self.name))

    async def _cases(self, agent: Agent, practice: Practice) -> list[Exemplar]:
        if self.source == "reference":
            return _unique(reference_exemplars(practice.tasks))
        collect = self._collect_growing if self.grow else self._collect
        solved = await collect(agent, practice)
        if self.source == "success":
            return solved
        known = {exemplar.input_id for exemplar in solved}
        missing = [task for task in practice.tasks if task.input_id not in known]
        return _unique([*solved, *reference_exemplars(missing)])

    async def _collect(self, agent: Agent, practice: Practice) -> list[Exemplar]:
        experiences = await practice.collect(agent, attempts=self.attempts)
        return _unique(self._successes(practice.tasks, experiences))

    async def _collect_growing(self, agent: Agent, practice: Practice) -> list[Exemplar]:
        memory = Memory(agent.knowledge.model_copy(update={"retrieval": self.retrieval}))
        learned: list[Exemplar] = []
        for start in range(0, len(practice.tasks), GROW_EVERY):
            wave = practice.tasks[start : start + GROW_EVERY]
            growing = agent.but(knowledge=memory.snapshot())
            experiences = await practice.collect(growing, wave, self.attempts, memory=memory)
            learned += [exemplar for exemplar in self._successes(wave, experiences) if memory.add(exemplar)]
        return learned

    def _successes(self, tasks: Sequence[Task], experiences: Iterable[Experience]) -> list[Exemplar]:
        """One exemplar per solved task: its first success."""
        by_id = {task.id: task for task in tasks}
        found: dict[str, Exemplar] = {}
        for experience in experiences:
            score, task_id = experience.grade.score, experience.episode.task_id
            if score is not None and score >= self.threshold and task_id not in found:
                found[task_id] = success_exemplar(by_id[task_id], experience.episode)
        return list(found.values())

    def _nothing_found(self) -> str:
        return (
            f"no episode on the training tasks reached a score of {self.threshold:g}, so there is no success to show: "
            "set source to `both` or `reference`, lower the threshold, or raise attempts"
        )


def with_exemplars(knowledge: Knowledge, cases: Iterable[Exemplar], retrieval: Retrieval, *, by: str) -> Knowledge:
    """The knowledge with these cases in place of its exemplars. What people put there stays, and first; insights and reflections stay."""
    cleared = remove_all(knowledge, [exemplar.id for exemplar in knowledge.exemplars], by=by)
    return add(cleared.model_copy(update={"retrieval": retrieval}), cases, by=by)


def reference_exemplars(tasks: Iterable[Task]) -> list[Exemplar]:
    """The tasks' reference answers as exemplars; tasks without one give none."""
    pairs = ((task, reference_messages(task)) for task in tasks)
    return [_exemplar(task, solution, "reference") for task, solution in pairs if solution]


def success_exemplar(task: Task, episode: Episode) -> Exemplar:
    """An episode as an exemplar: what the agent did, without the steps whose calls failed."""
    solution = tuple(message for step in episode.steps if not _went_wrong(step) for message in _step_messages(step))
    return _exemplar(task, solution, "success")


def _step_messages(step: Step) -> list[Message]:
    said = step.completion.message
    text = "" if step.calls and not said.tool_calls else said.text
    return [Message(role="assistant", content=text, tool_calls=step.calls), *(seen.message for seen in step.observations)]


def _went_wrong(step: Step) -> bool:
    return any(observation.failure for observation in step.observations)


def _exemplar(task: Task, solution: tuple[Message, ...], origin: Literal["reference", "success"]) -> Exemplar:
    asked = tuple(message for message in task.messages if message.role != "system")
    return Exemplar(task_id=task.id, input_id=task.input_id, text=task.text, messages=(*asked, *solution), kind=task.kind, origin=origin)


def spread(cases: Sequence[Exemplar], k: int, seed: int) -> list[Exemplar]:
    """At most k cases, drawn at random but in turns over the kinds, so that a fixed choice covers what the agent must do."""
    drawn = random.Random(seed)
    by_kind: defaultdict[str, list[Exemplar]] = defaultdict(list)
    for case in cases:
        by_kind[case.kind or ""].append(case)
    groups = [drawn.sample(group, len(group)) for _, group in sorted(by_kind.items())]
    drawn.shuffle(groups)
    in_turns = (case for case in chain.from_iterable(zip_longest(*groups)) if case is not None)
    return list(in_turns)[:k]


def _unique(exemplars: Iterable[Exemplar]) -> list[Exemplar]:
    return list({exemplar.id: exemplar for exemplar in exemplars}.values())


def _check(choose: str, k: int, source: str, attempts: int) -> None:
    if choose not in ("fixed", "text", "meaning", "fused"):
        raise InputError(f"`{choose}` is not a way to choose; use fixed, text, meaning or fused", field="learners.exemplars.choose")
    if source not in ("reference", "success", "both"):
        raise InputError(f"`{source}` is not a source; use reference, success or both", field="learners.exemplars.source")
    if not isinstance(k, int) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, not {k!r}", field="learners.exemplars.k")
    if attempts < 1:
        raise InputError("attempts must be at least 1", field="learners.exemplars.attempts")
