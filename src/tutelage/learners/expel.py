"""ExpeL: try the training tasks, compare what failed with what succeeded, keep insights, and show them all beside similar successes.

Source: Zhao et al. 2023 (arXiv:2308.10144). Gather with Reflexion retries; a model edits the running list of insights (see
`expel_operations`) over pairs of a failure and a success at one task and over chunks of successes; at work one try, with the whole list in
the prompt and the k most similar successes. Different from it: insights that the agent had are edited on, those of people stay as they
are; every change is on record with the episodes that it was drawn from; what looks like an injection is held for a person; and an
interrupted extraction continues where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.knowledge import Exemplar, Retrieval
from tutelage.learner import Need
from tutelage.learners.exemplars import success_exemplar, with_exemplars
from tutelage.learners.expel_extraction import BY, Extraction, extract
from tutelage.learners.expel_operations import Operation, Reading, apply_operations, parse_operations, read_operations
from tutelage.learners.expel_transfer import Transfer
from tutelage.learners.reflexion import Reflexion
from tutelage.learners.trajectory import SHORTEST, verdict
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Completion, Experience, Message, Record, Sampling, Task
from tutelage.suggest import unknown

__all__ = [
    "ExpeL",
    "Extraction",
    "Operation",
    "Options",
    "Reading",
    "apply_operations",
    "extract",
    "gather",
    "parse_operations",
    "read_operations",
]

FIELD = "learners.expel"


class Options(Record):
    """What decides how `ExpeL` learns.

    retries: Reflexion retries a task while gathering (0: one try each), at `retry_temperature` where the agent samples greedily. threshold:
    the score of a success.

    insights: draw insights (False: only successes are shown, for comparison). cap: the length of the list from which on the extracting
    model is asked to remove rather than add; it never grows beyond cap + 5. chunk: successes looked at together, half as many where they
    are long. extract_with: the model that extracts (None: the agent's own; a weak one learns little). max_chars: of the trajectories in
    one question. reply_tokens: of its reply.

    retrieval: how similar successes are chosen; k = 0 shows none, for comparison, and leaves the agent's exemplars as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    retries: int = Field(default=3, ge=0)
    retry_temperature: float | None = Field(default=None, gt=0)
    threshold: float = 1.0
    insights: bool = True
    cap: int = Field(default=20, ge=1)
    chunk: int = Field(default=8, ge=1)
    extract_with: str | Model | None = None
    max_chars: int = Field(default=8_000, ge=2 * SHORTEST)
    reply_tokens: int = Field(default=512, ge=1)
    retrieval: Retrieval = Retrieval(choose="meaning", k=2)

    @property
    def reflexion(self) -> Reflexion:
        """The learner whose trials are gathered."""
        return Reflexion(trials=1 + self.retries, threshold=self.threshold, retry_temperature=self.retry_temperature)


class ExpeL:
    """Learn insights from successes and failures. The options are those of `Options` and, for the successes shown, of `Retrieval`.

    transfer_from: begin with the insights of another kind of task (see `Transfer`), adapted by `examples` training tasks. Wrong options
    raise `InputError`.
    """

    name = BY
    needs = frozenset({Need.GRADES})

    def __init__(
        self,
        retries: int = 3,
        *,
        k: int = 2,
        choose: Literal["text", "meaning", "fused"] = "meaning",
        transfer_from: Any = None,
        examples: int = 3,
        **options: Any,
    ) -> None:
        self.options = _read_options({"retries": retries, "k": k, "choose": choose, **options})
        model = self.options.extract_with
        self.transfer = (
            None if transfer_from is None else Transfer(transfer_from, examples=examples, adapt_with=model, cap=self.options.cap)
        )

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one: `expel`, or which half of it."""
        if not self.options.insights:
            return f"{self.name}-successes"
        return self.name if self.options.retrieval.k else f"{self.name}-insights"

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        model = self.options.extract_with
        named = None if model is None else load_model(model).name
        own = {**self.options.model_dump(mode="json", exclude={"extract_with"}), "extract_with": named}
        return {self.name: own if self.transfer is None else own | self.transfer.described()}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes, reflections and questions to the extracting model, at most."""
        options = self.options
        gathering = options.reflexion.forecast_calls(n_tasks) if options.retries else n_tasks
        chunks = -(-n_tasks // max(1, options.chunk // 2))
        asking = n_tasks * options.retries + chunks if options.insights else 0
        return gathering + asking + (self.transfer.forecast_calls(n_tasks) if self.transfer else 0)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with insights and successes in its knowledge.

        Where no task was ever solved there is nothing to learn from: the agent is given back as it was, and the report says so. Raises
        `BudgetExceeded` and `ModelUnavailable`; running again continues.
        """
        if self.transfer is not None:
            agent = await self.transfer.learn(agent, practice)
        pool = await gather(agent, practice, self.options)
        successes = first_successes(pool, practice.tasks, self.options.threshold)
        if not successes:
            practice.note(nothing_learned=self._nothing_found())
            return agent
        knowledge = agent.knowledge
        if self.options.insights:
            extraction = await self._extract(pool, agent, practice)
            practice.note(**extraction.facts)
            knowledge = extraction.knowledge
        if self.options.retrieval.k:
            knowledge = with_exemplars(knowledge, successes, self.options.retrieval, by=self.name)
        return agent.but(knowledge=knowledge)

    async def _extract(self, pool: Sequence[Experience], agent: Agent, practice: Practice) -> Extraction:
        options, model = self.options, self.options.extract_with or agent
        sampling = Sampling(max_tokens=options.reply_tokens)

        async def ask(messages: Sequence[Message]) -> Completion:
            return await practice.ask(model, messages, sampling=sampling)

        return await extract(
            pool,
            practice.tasks,
            ask,
            start=agent.knowledge,
            cap=options.cap,
            chunk=options.chunk,
            max_chars=options.max_chars,
            threshold=options.threshold,
            seed=practice.seed,
            stage=practice.stage,
        )

    def _nothing_found(self) -> str:
        return (
            f"no episode on the training tasks reached a score of {self.options.threshold:g}, so there is no success to learn from: "
            "lower the threshold, raise retries, or show references first (curriculum: [exemplars, expel])"
        )


async def gather(agent: Agent, practice: Practice, options: Options) -> list[Experience]:
    """Every attempt at the training tasks: one each, or as Reflexion tries again. Its reflections are not kept: shown beside insights they
    made results worse (ExpeL, 39 to 29 on HotpotQA).
    """
    if options.retries == 0:
        return await practice.collect(agent)
    return list((await options.reflexion.gather(agent, practice)).experiences)


def first_successes(pool: Sequence[Experience], tasks: Sequence[Task], threshold: float) -> list[Exemplar]:
    """One exemplar a task that was solved, its first success, in the order of the tasks."""
    solved: dict[str, Experience] = {}
    for experience in pool:
        if verdict(experience, threshold).solved:
            solved.setdefault(experience.episode.task_id, experience)
    return [success_exemplar(task, solved[task.id].episode) for task in {task.id: task for task in tasks}.values() if task.id in solved]


def _read_options(given: dict[str, Any]) -> Options:
    """The options; those of `Retrieval` go there."""
    retrieval = {name: given.pop(name) for name in [*given] if name in Retrieval.model_fields}
    for name in given:
        if name not in Options.model_fields or name == "retrieval":
            known = [name for name in Options.model_fields if name != "retrieval"]
            raise InputError(unknown("an option of expel", name, [*known, *Retrieval.model_fields]), field=f"{FIELD}.{name}")
    try:
        options = Options(**given, retrieval=Retrieval(**retrieval))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}, and here is {first['input']!r}", field=f"{FIELD}.{place}") from None
    _check(options)
    return options


def _check(options: Options) -> None:
    retrieval = options.retrieval
    if retrieval.choose == "fixed":
        raise InputError("similar successes are chosen by text, meaning or fused; exemplars shows fixed ones", field=f"{FIELD}.choose")
    if retrieval.k < 0:
        raise InputError(f"k must be at least 0, not {retrieval.k}", field=f"{FIELD}.k")
    if retrieval.k == 0 and not options.insights:
        raise InputError("without insights and with k = 0 nothing would be learned", field=f"{FIELD}.insights")
    if options.max_chars < SHORTEST * options.chunk:
        raise InputError(
            f"max_chars must be at least {SHORTEST} for each of the {options.chunk} successes of a chunk, and is {options.max_chars}",
            field=f"{FIELD}.max_chars",
        )
