"""The loop of rollouts and updates that every way of reinforcement learning shares.

A step: episodes of the agent with its current weights (`policy_sampler.py`; stored, metered, never run twice), their samples
(`rollouts.py`), an update (`training/trainer.py`), the new adapter, a checkpoint.

A run that is interrupted at any moment goes on from its last checkpoint, and what was sampled since is in the store. The old logprobs of
the ratio are the trainer's own always. The sampler's are read only where they differ by more than last bits (`samples_otherwise`), for the
importance correction: those last bits hang on what else was in a batch, and an interruption changes that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from pydantic import JsonValue

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.learners.policy_batch import Batch, choose_engine, samples_otherwise
from tutelage.learners.policy_plan import case_of
from tutelage.learners.policy_report import any_usable, facts_of, note_of, why_fruitless
from tutelage.learners.policy_sampler import Measure, Sampler, TaskSampler
from tutelage.learners.policy_settings import PolicySettings
from tutelage.learners.policy_state import Evaluation, Row, State
from tutelage.learners.policy_weights import Weights
from tutelage.learners.rollouts import Reading
from tutelage.learners.step_history import as_row, write_history
from tutelage.practice import Practice
from tutelage.records import Task, content_id
from tutelage.training.adapters import check_fits
from tutelage.training.base import Base, base_of
from tutelage.training.divergence import Diverged
from tutelage.training.planned import noted, plan_of, warn
from tutelage.training.policy_gradient import informative
from tutelage.training.vision_images import pictures_of

FRUITLESS_STEPS = 3
"""So many steps in a row in which no group differs end the run: there is nothing to learn from."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Trained:
    """The agent with the weights it learned, and what happened in each step."""

    agent: Agent
    history: tuple[Row, ...]


async def train_policy(
    agent: Agent,
    practice: Practice,
    settings: PolicySettings,
    *,
    by: str,
    judge: Practice | None = None,
    validation: Sequence[Task] | None = None,
    measure: Measure | None = None,
) -> Trained:
    """Learn on the practice's tasks from its grader's scores; the agent's adapter, where it wears one, is learned on.

    by: the learner's name. judge: whose grader scores the held-out tasks (None: the practice's own). validation: tasks to hold out, in
    place of a share of the practice's. measure: see `Measure`. Notes facts for the report; the steps are in the practice's folder, in
    `history.jsonl`. Where no group ever differs, the agent is given back as it was, with the fact `nothing_learned`.

    Raises `InputError` for an agent whose weights cannot be trained and where nothing can be learned (no tokens, rewards
    that are no numbers), `GraderError` where a whole step is not graded, `Diverged` where the first update is, and `BudgetExceeded` and
    `ModelUnavailable`, which keep all that is done.
    """
    sampler = TaskSampler.of(agent.memory, practice, judge or practice, settings, validation, measure)
    return await train_with(sampler, agent, practice, settings, by=by)


async def train_with(sampler: Sampler, agent: Agent, practice: Practice, settings: PolicySettings, *, by: str) -> Trained:
    """As `train_policy`, on the rollouts that the sampler gathers."""
    _check(agent, practice)
    base = base_of(agent.model)
    if agent.adapter is not None:
        check_fits(agent.adapter, base)
    return await _Run(sampler, settings, agent, practice, by, base).run()


@dataclass
class _Run:
    """One run of the loop. saved: the state of the last checkpoint."""

    sampler: Sampler
    settings: PolicySettings
    agent: Agent
    practice: Practice
    by: str
    base: Base
    state: State = field(default_factory=State)
    saved: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.begun = self.practice.cost
        self.described = {**self.settings.described(), **self.sampler.described()}
        ids = [[task.id for task in some] for some in (self.sampler.train, self.sampler.held_out)]
        self.id = content_id([self.agent.version, self.by, self.described, ids, self.practice.seed, self.sampler.graders])

    async def run(self) -> Trained:
        with ThreadPoolExecutor(1, thread_name_prefix="trainer") as self.pool:
            await self._in_thread(self._open)
            with self.practice.stage(f"{self.by} steps", self.settings.loop.steps) as stage:
                for row in self.state.history:
                    stage.advance(note_of(row))
                while await self._goes_on():
                    await self._step()
                    stage.advance(note_of(self.state.history[-1]))
            await self._in_thread(lambda: self._keep(due=True))
        return self._trained()

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        """Run in the one thread that has the trainer, so that others who use the event loop need not wait."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)

    def _open(self) -> None:
        facts: dict[str, JsonValue] = {
            "learner": self.by,
            "run": self.id,
            "settings": self.described,
            "tasks": content_id([task.id for task in self.sampler.train]),
            "grader": self.practice.grader.name,
            "from_adapter": self.agent.adapter.id if self.agent.adapter else None,
        }
        plan = plan_of(self.base, case_of(self.agent, self.settings, self.sampler.train))
        warn(plan)
        self.practice.note(**noted(plan))
        folder, seed = self.practice.folder, self.practice.seed
        self.weights = Weights.open(self.base, self.agent, self.settings, folder, f"{self.by}-{self.id}", seed, facts)
        rollout = self.settings.loop.rollout
        self.model, self.engine = choose_engine(self.agent.model, self.base, rollout, on_gpu=self.weights.on_gpu)
        in_4bit = self.settings.train.load_in_4bit  # what samples has the whole base
        self.foreign = in_4bit or samples_otherwise(self.model, self.engine, self.weights.number_format)
        if restored := self.weights.restore():
            self.state = self.saved = restored
            self.practice.spend(restored.cost)  # the episodes before the checkpoint are not asked for again

    async def _goes_on(self) -> bool:
        """Evaluate where it is time to, and say whether there is another step."""
        loop = self.settings.loop
        ended = self.state.step >= loop.steps or self.state.stopped is not None
        if ended or self.state.step % loop.eval_steps == 0:
            await self._evaluate()
        if not ended and loop.patience is not None and self.state.waited >= loop.patience:
            self._stop(f"no better score in {self.state.waited} evaluations")
            ended = True
        return not ended

    def _stop(self, why: str) -> None:
        self.state = self.state.model_copy(update={"stopped": why})

    # -- one step

    async def _step(self) -> None:
        begun = perf_counter()
        worn = self._worn()
        batch = await self.sampler.gather(self._exploring(worn), self.state.step, self.state.drawn, self.reading)
        sampled = perf_counter()
        fruitful = self._teaches(batch)
        metrics = await self._in_thread(lambda: self._update(batch)) if fruitful else {}
        times = {"seconds_rollout": sampled - begun, "seconds_update": perf_counter() - sampled}
        self._count(batch, as_row({"step": self.state.step + 1}, metrics, batch.facts, times), fruitful)
        if metrics:
            _forget(self.practice, worn)
        self._stop_where_fruitless()
        await self._in_thread(lambda: self._keep(due=self.state.step % self.settings.loop.save_steps == 0))
        write_history(self.practice.folder, self.id, self.by, self.state.history)

    @property
    def reading(self) -> Reading:
        """How experiences become samples."""
        return Reading(
            logprobs=self.foreign,
            mask_truncated=self.settings.loop.mask_truncated_completions,
            max_length=self.settings.train.max_length,
            truncate=self.settings.train.truncate,
            min_confidence=self.settings.loop.min_confidence,
            weigh=self.settings.loop.weigh_by_confidence,
        )

    def _teaches(self, batch: Batch) -> bool:
        """Whether any two rewards that are compared with each other differ."""
        epsilon = self.settings.loop.min_reward_std
        if self.settings.policy.algorithm == "ppo":
            return informative([reward for group in batch.kept for reward in group.rewards], epsilon)
        return any(group.informative(epsilon) for group in batch.kept)

    def _update(self, batch: Batch) -> dict[str, float]:
        """Train on the batch. Where training diverges, the weights before it stay and the run is over."""
        try:
            metrics, new = self.weights.update(batch.samples, self.state.step + 1, foreign=self.foreign)
        except Diverged as diverged:
            if self.state.updates == 0:
                raise
            self._stop(f"training diverged in step {self.state.step + 1}, and the weights before it are kept: {diverged}")
            return {}
        made = tuple(dict.fromkeys([*self.state.made, new]))
        self.state = self.state.model_copy(update={"updates": self.state.updates + 1, "adapter": new, "made": made})
        return metrics

    def _count(self, batch: Batch, row: Row, fruitful: bool) -> None:
        self.state = self.state.model_copy(
            update={
                "step": self.state.step + 1,
                "drawn": batch.drawn,
                "fruitless": 0 if fruitful else self.state.fruitless + 1,
                "history": (*self.state.history, row),
            }
        )

    def _stop_where_fruitless(self) -> None:
        """Episodes that cannot be used at all are a mistake to mend, and raise; rewards that do not differ are a finding.

        Raised before the step is kept, so that running again says the same and samples nothing.
        """
        if self.state.fruitless < FRUITLESS_STEPS:
            return
        rows = self.state.history[-FRUITLESS_STEPS:]
        if self.state.updates == 0 and not any_usable(rows):
            raise InputError(why_fruitless(rows), field="grader")
        self._stop(why_fruitless(rows))

    def _keep(self, *, due: bool) -> None:
        """Write a checkpoint where one is due, and let go of the adapters that nothing needs."""
        self.state = self.state.model_copy(update={"cost": self.practice.cost.minus(self.begun)})
        if due and self.state != self.saved:
            self.weights.checkpoint(self.state)
            self.saved = self.state
        needed = self.state.needed | self.saved.needed
        self.weights.remove(set(self.state.made) - needed)
        self.state = self.state.model_copy(update={"made": tuple(each for each in self.state.made if each in needed)})

    # -- agents

    def _worn(self) -> Agent:
        """The agent with the current weights, on the model that samples."""
        return self.agent.but(model=self.model, adapter=self.weights.adapter(self.state.adapter))

    def _exploring(self, worn: Agent) -> Agent:
        """Its tokens are drawn from the policy itself, without cuts."""
        temperature = self.settings.policy.temperature
        changes: dict[str, Any] = {"temperature": temperature, "top_p": 1.0, "min_p": 0.0, "seed": None, "logprobs": True}
        return worn.but(sampling=worn.sampling.model_copy(update=changes))

    async def _evaluate(self) -> None:
        """The greedy score of the current weights on the held-out tasks, once for each step."""
        if not self.sampler.held_out or any(evaluation.step == self.state.step for evaluation in self.state.evaluations):
            return
        greedy = self.agent.sampling.model_copy(update={"temperature": 0.0, "seed": None})
        judged = await self.sampler.judge(self._worn().but(sampling=greedy))
        self.state = self.state.evaluated(
            Evaluation(step=self.state.step, score=judged.score, tokens=judged.tokens, adapter=self.state.adapter, facts=judged.facts)
        )

    def _trained(self) -> Trained:
        """The agent with the best weights, on its own model and with its own sampling."""
        best = self.state.best.adapter if self.state.best else self.state.adapter
        sampler = self.sampler
        facts = facts_of(self.state, len(sampler.train), len(sampler.held_out), sampler.earned)
        peaks = [row.get("peak_memory_bytes") for row in self.state.history]
        measured = max((int(peak) >> 20 for peak in peaks if isinstance(peak, int | float)), default=None)
        self.practice.note(engine=self.engine, dtype=self.weights.number_format, **facts, **sampler.facts(self.state))
        self.practice.note(peak_memory_mb=measured)
        return Trained(self.agent.but(adapter=self.weights.adapter(best)), self.state.history)


def _check(agent: Agent, practice: Practice) -> None:
    if agent.workflow is not None:
        raise InputError(
            "a workflow's episodes have the tokens of several agents, and there is no telling which of them earned the reward; train an "
            "agent alone and put it into the workflow",
            field="workflow",
        )
    if not practice.tasks:
        raise InputError("there are no training tasks", field="train")
    if any(pictures_of(task.messages) for task in practice.tasks):
        raise InputError("images do not reach the weights here, which learn from text alone; use vision_sft", field="train")
    if agent.sampling.json_schema is not None:
        raise InputError(
            "a JSON Schema changes the policy that samples, and learning would not know of it; take it out of the agent's sampling and put "
            "it back afterwards",
            field="sampling.json_schema",
        )


def _forget(practice: Practice, worn: Agent) -> None:
    """Let go of a model with weights that no step will use again: an engine with an adapter holds memory."""
    if worn.adapter is not None:
        practice.forget(worn)


__all__ = ["FRUITLESS_STEPS", "Measure", "PolicySettings", "Trained", "train_policy", "train_with"]
