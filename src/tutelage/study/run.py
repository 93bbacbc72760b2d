"""A study: an agent before and after learning, by each way of learning, compared on test tasks that no learner has seen."""

from __future__ import annotations

import asyncio
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import JsonValue

from tutelage.advice import Advisor, described_advisor
from tutelage.agent import Agent
from tutelage.budget import Budget, Cost
from tutelage.collector import Collector
from tutelage.environment import EnvironmentFactory
from tutelage.errors import InputError, MissingExtra
from tutelage.experience.store import RunLock, Store
from tutelage.files import remove_leftovers, write_atomically
from tutelage.grader import Grader
from tutelage.history import merge, people_part
from tutelage.learner import Learner, Need, learn_once
from tutelage.practice import Practice
from tutelage.prices import Price
from tutelage.progress import Progress
from tutelage.records import Experience, Task, content_id
from tutelage.study.advisors import bind_advisor, refuse_another
from tutelage.study.cheap import advisor_answers, cheap_answers
from tutelage.study.contamination import contamination_lines, find_contamination
from tutelage.study.executors import executor_changes
from tutelage.study.learned import (
    LearnedAgent,
    drop_checkpoints,
    keep_adapter,
    read_any_learned,
    read_learned,
    wearing,
    write_learned,
)
from tutelage.study.report import make_report, write_report
from tutelage.study.results import ArmResult, Case, CheapResult, CurvePoint, Report, TestRow
from tutelage.study.shelf import RunShelf
from tutelage.study.tables import quoted
from tutelage.study.testing import answer_to_read, expected_to_read, price_of, rows_of, run_arm
from tutelage.tasks import check_splits, reference_messages
from tutelage.training.adapters import check_fits
from tutelage.training.base import base_of
from tutelage.workflows.parts import instructions_of

BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A baseline and learners on one sealed test split.

    agent: the baseline. train, test: disjoint tasks; learners never get `test`. learners: arm name -> learner. agents: further arms that
    are used as they are (another model, say). seeds: each repeats learning and use. curve: also learn from only the first n training
    tasks. advisor: who is asked by agents whose executor lets them seek advice. out: the folder for the store, the learned agents and the
    report (None: kept in memory, nothing written). Running again with the same folder continues where it was interrupted.

    An agent with a memory that its sessions read or write is tested as a stream: one task after another, in an order that the seed decides.
    """

    agent: Agent
    train: Sequence[Task]
    test: Sequence[Task]
    grader: Grader
    learners: Mapping[str, Learner] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)
    name: str = "study"
    environment: EnvironmentFactory | None = None
    advisor: Advisor | None = None
    budget: Budget = Budget()
    seeds: tuple[int, ...] = (0,)
    curve: tuple[int, ...] = ()
    concurrency: int | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    out: str | Path | None = None
    progress: Progress | None = None

    def run(self) -> Report:
        """Run the study, or what is left of it, and write the report. For use outside an event loop; inside one, `await arun()`."""
        return asyncio.run(self.arun())

    async def arun(self) -> Report:
        """Run the study, or what is left of it.

        Raises `InputError` before anything is spent where the study cannot work. `BudgetExceeded` and `ModelUnavailable` keep all that is
        done.
        """
        self.check()
        if self.out is None:
            return await _Running(self, Store(":memory:"), None).report()
        folder = Path(self.out)
        with RunLock(folder):
            remove_leftovers(folder)
            if any(agent.executor is not None for agent in (self.agent, *self.agents.values())):
                refuse_another(folder, self.advisor)
            store = Store(folder / "experience.sqlite")
            try:
                return await _Running(self, store, folder).report()
            finally:
                store.close()

    def check(self) -> None:
        """Raise `InputError` where the study cannot work: overlapping splits, tasks that cannot be graded, learners that lack something."""
        check_splits(self.train, self.test)
        if not self.seeds:
            raise InputError("at least one seed is needed", field="seeds")
        for name in {*self.learners, BASELINE} & set(self.agents):
            raise InputError(f"two arms are called `{name}`; rename one", field="agents")
        for task in (*self.train, *self.test):
            self.grader.check(task)
        for name, learner in self.learners.items():
            self._check_needs(name, learner)

    def _check_needs(self, name: str, learner: Learner) -> None:
        if Need.REFERENCES in learner.needs and not any(reference_messages(task) for task in self.train):
            raise InputError(f"the learner `{name}` needs reference answers, and no training task has one", field=f"learners.{name}")
        if Need.WEIGHTS in learner.needs:
            self._check_weights(name)

    def _check_weights(self, name: str) -> None:
        """Raise `InputError` where the agent has no weights that can be trained here."""
        place = f"learners.{name}"
        if self.agent.workflow is not None:
            raise InputError(
                f"the learner `{name}` trains one model, and this agent is a workflow of several agents; train a part by itself, "
                "then give it its `adapter`",
                field=place,
            )
        try:
            base = base_of(self.agent.model)
            if self.agent.adapter is not None:
                check_fits(self.agent.adapter, base)
        except MissingExtra:
            raise
        except InputError as wrong:
            raise InputError(f"the learner `{name}` trains weights: {wrong.message}", file=wrong.file, field=place) from None

    def collector(self, store: Store) -> Collector:
        """What runs and grades this study's episodes, over a store."""
        collector = Collector(
            self.grader,
            store=store,
            study=self.name,
            budget=self.budget,
            environment=self.environment,
            concurrency=self.concurrency,
            progress=self.progress,
            prices=self.prices,
        )
        collector.advisor = bind_advisor(self.advisor, collector.model_for)
        return collector

    @property
    def sealed(self) -> frozenset[str]:
        """The input ids of the test split, which no practice may run."""
        return frozenset(task.input_id for task in self.test)

    def fingerprint(self) -> str:
        """Hash of all that decides the comparison: what counts as one look at the test split."""
        arms = {name: agent.version for name, agent in self.agents.items()}
        learners = {name: learner.described() for name, learner in self.learners.items()}
        tasks = [[task.id for task in split] for split in (self.train, self.test)]
        known = [self.agent.version, arms, learners, tasks, list(self.seeds), list(self.curve), self.grader.name]
        return content_id(known if self.advisor is None else [*known, described_advisor(self.advisor)])


@dataclass
class _Running:
    """One run of a study."""

    study: Study
    store: Store
    folder: Path | None

    def __post_init__(self) -> None:
        self.collector = self.study.collector(self.store)
        self.sealed = self.study.sealed
        self.kept: dict[str, dict[tuple[str, int], Experience]] = {}
        self.agents: dict[str, Agent] = {}

    async def report(self) -> Report:
        study = self.study
        looks = self.store.record_look(content_id([task.id for task in study.test]), study.fingerprint())
        arms = [await self._plain_arm(BASELINE, study.agent)]
        arms += [await self._plain_arm(name, agent) for name, agent in study.agents.items()]
        arms += [await self._learned_arm(name, learner) for name, learner in study.learners.items()]
        cheap = await cheap_answers(study.train, study.test, self.collector.grader)
        prices = {arm.price for arm in arms if arm.price is not None}
        cheap += await advisor_answers(self.collector.advisor, sorted(prices), study.test, self.collector.grader)
        report = make_report(
            study=study.name,
            seed=study.seeds[0],
            n_train=len(study.train),
            n_test=len(study.test),
            test_looks=looks,
            arms=arms,
            cheap=cheap,
            warnings=[*self._contamination(), *self._nobody_to_ask(arms)],
        )
        if self.folder:
            self._write(self.folder, report, arms, cheap)
        return report

    async def _plain_arm(self, name: str, agent: Agent) -> ArmResult:
        rows = [row for seed in self.study.seeds for row in await self._test(name, agent, seed)]
        return ArmResult(name=name, learner=None, agent_version=agent.version, price=price_of(agent), rows=tuple(rows))

    async def _learned_arm(self, name: str, learner: Learner) -> ArmResult:
        study, cost = self.study, Cost()
        agents: list[Agent] = []
        facts: list[dict[str, JsonValue]] = []
        rows: list[TestRow] = []
        for seed in study.seeds:
            agent, learned = await self._learn(name, learner, study.train, seed)
            cost = cost.plus(learned.cost)
            agents.append(agent)
            facts.append(learned.facts)
            rows += await self._test(name, agent, seed)
        return ArmResult(
            name=name,
            learner=learner.name,
            agent_version=agents[0].version,
            learn=cost,
            experiences_used=len(agents[0].knowledge.entries),
            curve=await self._curve(name, learner),
            facts=facts[0],
            price=price_of(agents[0]),
            rows=tuple(rows),
        )

    async def _curve(self, name: str, learner: Learner) -> tuple[CurvePoint, ...]:
        points = []
        for n in sorted(size for size in set(self.study.curve) if size < len(self.study.train)):
            agent, _ = await self._learn(f"{name}, n={n}", learner, self.study.train[:n], self.study.seeds[0])
            rows = await self._test(f"{name}, n={n}", agent, self.study.seeds[0])
            scores = [row.reward for row in rows if row.reward is not None]
            points.append(CurvePoint(n=n, score=sum(scores) / len(scores) if scores else None))
        return tuple(points)

    async def _learn(self, arm: str, learner: Learner, train: Sequence[Task], seed: int) -> tuple[Agent, LearnedAgent]:
        """Learn, or take what an earlier run learned from the very same things."""
        base = self.study.agent
        depends = [base.version, learner.described(), [task.id for task in train], seed, self.study.grader.name]
        fingerprint = content_id(depends if self.study.advisor is None else [*depends, described_advisor(self.study.advisor)])
        path = self.folder and self.folder / "agents" / f"{self._name_of(arm, seed)}.json"
        if path and (earlier := read_learned(path, fingerprint, base)):
            return wearing(base, earlier), earlier
        workplace = self._workplace(arm, seed)
        shelf = RunShelf(self.folder) if self.folder and Need.WEIGHTS in learner.needs else None
        practice = Practice(train, self.collector, seed=seed, sealed=self.sealed, arm=arm, folder=workplace, shelf=shelf)
        begun = monotonic()
        agent = await learn_once(learner, _with_peoples_part(base, path), practice)
        if self.folder:
            agent = keep_adapter(agent, base, self.folder)
        learned = LearnedAgent(
            fingerprint=fingerprint,
            arm=arm,
            seed=seed,
            cost=practice.cost.plus(Cost(seconds=monotonic() - begun)),
            knowledge=agent.knowledge,
            adapter=agent.adapter,
            executor=executor_changes(agent, base),
            agent=agent.described(),
            facts=practice.facts,
        )
        if path and workplace:
            write_learned(path, learned)
            drop_checkpoints(workplace)
        return agent, learned

    def _name_of(self, arm: str, seed: int) -> str:
        return f"{_file_name(arm)}{f'-seed{seed}' if len(self.study.seeds) > 1 else ''}"

    def _workplace(self, arm: str, seed: int) -> Path | None:
        """Where an arm may keep checkpoints and learned weights."""
        return self.folder and self.folder / "training" / self._name_of(arm, seed)

    def _contamination(self) -> list[str]:
        """Where what an arm was told or taught holds test tasks, in words; each arm by its name."""
        study = self.study
        arms = [arm for arm in self.agents if arm in {BASELINE, *study.agents, *study.learners}]  # not the points of a curve
        told = {arm: (self.agents[arm].knowledge, instructions_of(self.agents[arm])) for arm in arms}
        found = {arm: find_contamination(*known, study.test, common=study.train) for arm, known in told.items()}
        lines = ((arm, line) for arm, overlaps in found.items() for line in contamination_lines(overlaps, shown=2))
        return [line if line.startswith("- ") else f"{quoted(arm)}: {line}" for arm, line in lines]

    def _nobody_to_ask(self, arms: Sequence[ArmResult]) -> list[str]:
        asking = [quoted(arm.name) for arm in arms if arm.price is not None]
        if not asking or self.study.advisor is not None:
            return []
        return [f"The study has no `advisor`, so none of the agents that may seek advice got any: {', '.join(asking)}."]

    async def _test(self, arm: str, agent: Agent, seed: int) -> list[TestRow]:
        self.agents.setdefault(arm, agent)
        stream = self.folder and self.folder / "streams" / f"{self._name_of(arm, seed)}.jsonl"
        experiences = await run_arm(self.collector, agent, self.study.test, seed=seed, arm=arm, stream=stream)
        self.kept.setdefault(arm, {}).update({(x.episode.task_id, seed): x for x in experiences})
        return rows_of(experiences, self.study.test, seed)

    def _write(self, folder: Path, report: Report, arms: list[ArmResult], cheap: list[CheapResult]) -> None:
        write_report(folder, report, arms, cheap, self._cases([arm.name for arm in arms]))
        write_atomically(folder / "run.json", json.dumps(self._facts(), indent=1) + "\n")

    def _cases(self, arms: Sequence[str]) -> list[Case]:
        """What each arm answered on each test task, under the first seed."""
        seed = self.study.seeds[0]
        return [
            Case(
                task_id=task.id,
                input_text=task.text,
                expected=expected_to_read(task),
                answers={arm: answer_to_read(self.kept[arm][task.id, seed]) for arm in arms},
            )
            for task in self.study.test
        ]

    def _facts(self) -> dict[str, Any]:
        """Everything that made this run, for whoever repeats it."""
        study = self.study
        return {
            "study": study.name,
            "fingerprint": study.fingerprint(),
            "tutelage": version("tutelage"),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "agent": study.agent.described(),
            "agents": {name: agent.described() for name, agent in study.agents.items()},
            "learners": {name: learner.described() for name, learner in study.learners.items()},
            "grader": study.grader.name,
            **({} if study.advisor is None else {"advisor": described_advisor(study.advisor)}),
            "seeds": list(study.seeds),
            "budget": study.budget.model_dump(),
            "train": [task.id for task in study.train],
            "test": [task.id for task in study.test],
        }


def _with_peoples_part(base: Agent, path: Path | None) -> Agent:
    """The agent to learn from: what people added, edited, pinned or removed in what was learned before goes into learning anew."""
    earlier = read_any_learned(path) if path else None
    mine = people_part(earlier.knowledge) if earlier else None
    return base if mine is None or not mine.history else base.but(knowledge=merge(base.knowledge, mine))


def _file_name(arm: str) -> str:
    return re.sub(r"[^\w.-]+", "-", arm).strip("-.") or "arm"
