"""When to ask for advice, without training: a threshold on how sure the agent is, chosen for the price of advice.

Sessions that never ask give, for each training task, a confidence c and the score s of the agent's own answer; the advisor's answer has
the score a. With the threshold t the reward of a task is

    r(t) = a - price   where c < t   (advice is sought, and followed)
    r(t) = s           elsewhere

and the threshold with the highest mean reward is taken, out of every one that tells two of the seen confidences apart, `NEVER` and
`ALWAYS`. This is the plain form of a reject option (Chow 1970, "On optimum recognition error and reject tradeoff"): no curve is fitted.
Two checks keep chance out. A threshold between the two ends is kept only where, chosen on some folds of the tasks and measured on the
others, it earns more than the better of never and always asking does, chosen in the same way. And the reward and the gain that are
reported as held out come from folds that the whole procedure, this check included, has not seen.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import fsum
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from tutelage.advice import Question, ReferenceAdvisor
from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.executor.ask_when import ALWAYS, NEVER, AskWhen, Signal
from tutelage.executor.executor import AgileExecutor
from tutelage.executor.prompts import SEEK_ADVICE
from tutelage.graders.load import grade_episode
from tutelage.learner import Need
from tutelage.practice import Practice
from tutelage.records import Episode, Experience, Record, StopReason, Task, content_id
from tutelage.suggest import unknown
from tutelage.task_formats.choices import choices_of

TIE = 1e-9
"""Mean rewards closer than this are equal, and differ by rounding."""

CURVE_POINTS = 100
"""At most about so many points of the curve are noted for the report."""


class Options(Record):
    """What decides how `AskThreshold` learns.

    signal, samples, temperature: how confidence is measured, as in `AskWhen`. folds: into so many the tasks are parted for what is held
    out (into as many as there are questions where these are fewer).

    advised: what becomes of a task that is asked about. `answer`: the advice is the answer. Its score is had by asking and grading where
    the advisor is a simulated one, which costs nothing (`ReferenceAdvisor`), and is otherwise assumed to be 1 - `error_rate` (None: the
    advisor's own `error_rate` where it has one, else 0). An `error_rate` that is given is assumed of simulated advisors too. `session`:
    sessions that always ask are run, whoever the advisor is, and their score is taken: dearer, and true of a model that does not follow
    advice.
    """

    signal: Signal = "probability"
    samples: int = Field(default=5, ge=1)
    temperature: float = Field(default=0.7, gt=0)
    folds: int = Field(default=5, ge=2)
    error_rate: float | None = Field(default=None, ge=0, le=1)
    advised: Literal["answer", "session"] = "answer"


@dataclass(frozen=True)
class Case:
    """One graded task: how sure the agent was, the score of its own answer and of the advice (None: none is to be had, and nothing is
    charged). question: `Task.input_id`; cases that share it stay in one fold.
    """

    confidence: float
    own: float
    advised: float | None
    question: str = ""


@dataclass(frozen=True)
class Setting:
    """What a threshold does to the mean over tasks: share with advice, score before the price of advice, and reward, which is after it."""

    threshold: float
    advice_rate: float
    score: float
    reward: float


def settings(cases: Sequence[Case], price: float) -> tuple[Setting, ...]:
    """Every threshold that tells some of the cases apart, from `NEVER` to `ALWAYS`. cases: one or more."""
    ordered = sorted(cases, key=lambda case: case.confidence)
    groups = [list(group) for _, group in groupby(ordered, key=lambda case: case.confidence)]
    levels = [group[0].confidence for group in groups]
    thresholds = [NEVER, *map(_between, levels, levels[1:]), ALWAYS]
    asked, total, n = 0, fsum(case.own for case in cases), len(cases)
    found = [Setting(NEVER, 0.0, total / n, total / n)]
    for threshold, group in zip(thresholds[1:], groups, strict=True):
        helped = [case.advised - case.own for case in group if case.advised is not None]
        asked, total = asked + len(helped), total + fsum(helped)
        found.append(Setting(threshold, asked / n, total / n, (total - price * asked) / n))
    return tuple(found)


def _between(low: float, high: float) -> float:
    """A threshold above the one and not above the other."""
    middle = (low + high) / 2
    return middle if low < middle else high


def best(found: Sequence[Setting], price: float) -> Setting:
    """The setting with the highest reward; of equal ones that with the least advice, or with the most where it is free."""
    highest = max(setting.reward for setting in found)
    equal = [setting for setting in found if setting.reward >= highest - TIE]
    return equal[-1] if price == 0 else equal[0]


def scanned(cases: Sequence[Case], price: float) -> Setting:
    """The best of all thresholds."""
    return best(settings(cases, price), price)


def constant(cases: Sequence[Case], price: float) -> Setting:
    """The better of never and always asking."""
    found = settings(cases, price)
    return best((found[0], found[-1]), price)


def choose(cases: Sequence[Case], price: float, *, folds: int = 5, seed: int = 0) -> Setting:
    """The best threshold where it stands the check on held-out folds, else the better of never and always asking."""
    taken, plain = scanned(cases, price), constant(cases, price)
    if taken.threshold in (NEVER, ALWAYS):
        return taken
    rewards = [held_out(cases, price, procedure, folds=folds, seed=seed) for procedure in (scanned, constant)]
    with_threshold, without = rewards
    stands = with_threshold is not None and without is not None and with_threshold > without + TIE
    return taken if stands else plain


def held_out(
    cases: Sequence[Case], price: float, procedure: Callable[[Sequence[Case], float], Setting], *, folds: int = 5, seed: int = 0
) -> float | None:
    """The mean reward of each case at the threshold that the procedure chooses on the other folds; None with fewer than two questions."""
    order = sorted({case.question for case in cases}, key=lambda question: content_id([seed, question]))
    if len(order) < 2:
        return None
    place = {question: number % min(folds, len(order)) for number, question in enumerate(order)}
    parts: defaultdict[int, list[Case]] = defaultdict(list)
    for case in cases:
        parts[place[case.question]].append(case)
    earned = []
    for number, part in parts.items():
        threshold = procedure([case for other, rest in parts.items() if other != number for case in rest], price).threshold
        earned += [_reward(case, threshold, price) for case in part]
    return fsum(earned) / len(earned)


def _reward(case: Case, threshold: float, price: float) -> float:
    return case.advised - price if case.confidence < threshold and case.advised is not None else case.own


class AskThreshold:
    """Choose when the agent asks for advice, for its executor's price, on the training tasks. The options are those of `Options`.

    The agent needs an `AgileExecutor`; the learned one's has `ask_when` set, and no action `seek_advice`: the threshold alone decides.
    `probability` needs a model that gives token probabilities; `agreement` and `similarity` work with every model, the latter with a
    memory that holds something. Where confidence tells nothing, what is left is the better of never and always asking.

    A session that came to no draft is one in which the executor cannot ask. Tasks that are not graded are left out and counted; with none
    left the agent stays as it is.
    """

    name = "ask_threshold"
    needs = frozenset({Need.GRADES})

    def __init__(self, signal: Signal = "probability", samples: int = 5, **options: Any) -> None:
        self.options = _read_options({"signal": signal, "samples": samples, **options})

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return f"ask-{self.options.signal}"

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        return {self.name: self.options.model_dump(mode="json")}

    def forecast_calls(self, n_tasks: int) -> int:
        """Sessions, and the further samples of their answers."""
        sampled = self.options.samples if self.options.signal == "agreement" else 0
        return n_tasks * (1 + sampled) * (2 if self.options.advised == "session" else 1)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent that asks where it is less sure than the threshold. Raises `BudgetExceeded` and `ModelUnavailable`; running again
        continues. Raises `InputError` where the agent has no `AgileExecutor`.
        """
        executor = _executor(agent)
        experiences = await practice.collect(self._asking(agent, NEVER))
        cases = await self._cases(agent, practice, experiences)
        practice.note(ask_signal=self.options.signal, ask_graded=len(cases), ask_ungraded=len(experiences) - len(cases))
        if not cases:
            return agent
        chosen = choose(cases, executor.price, folds=self.options.folds, seed=practice.seed)
        self._note(practice, experiences, cases, chosen, executor.price)
        return self._asking(agent, chosen.threshold)

    def _asking(self, agent: Agent, threshold: float) -> Agent:
        """The agent that asks below the threshold."""
        options, executor = self.options, _executor(agent)
        when = AskWhen(signal=options.signal, threshold=threshold, samples=options.samples, temperature=options.temperature)
        own = tuple(item for item in executor.actions if SEEK_ADVICE not in (item, getattr(item, "name", "")))
        return agent.but(executor=executor.model_copy(update={"ask_when": when, "actions": own}))

    async def _cases(self, agent: Agent, practice: Practice, experiences: Sequence[Experience]) -> list[Case]:
        """One for each graded task."""
        pairs = list(zip(practice.tasks, experiences, strict=True))
        graded = [(task, experience) for task, experience in pairs if experience.grade.score is not None]
        scores = await self._advised(agent, practice, graded)
        return [_case(task, experience, advised) for (task, experience), advised in zip(graded, scores, strict=True)]

    async def _advised(self, agent: Agent, practice: Practice, graded: Sequence[tuple[Task, Experience]]) -> list[float | None]:
        """The score with advice, for each task; None where no advice is to be had."""
        tasks, advisor, rate = [task for task, _ in graded], practice.advisor, self.options.error_rate
        if self.options.advised == "session":
            sessions = await practice.collect(self._asking(agent, ALWAYS), tasks)
            return [session.grade.score if session.episode.advice else None for session in sessions]
        assumed = 1 - float(getattr(advisor, "error_rate", 0.0) if rate is None else rate)
        if rate is not None or not isinstance(advisor, ReferenceAdvisor):
            practice.note(ask_advisor="assumed")
            return [assumed] * len(graded)
        practice.note(ask_advisor="asked")
        return list(await asyncio.gather(*(_ask(advisor, practice, task, experience, assumed) for task, experience in graded)))

    def _note(self, practice: Practice, experiences: Sequence[Experience], cases: Sequence[Case], chosen: Setting, price: float) -> None:
        found = settings(cases, price)
        advised = [case.advised for case in cases if case.advised is not None]

        def whole(some: Sequence[Case], paid: float) -> Setting:
            return choose(some, paid, folds=self.options.folds, seed=practice.seed)

        reward = held_out(cases, price, whole, folds=self.options.folds, seed=practice.seed)
        practice.note(
            ask_price=price,
            ask_threshold=chosen.threshold,
            ask_advice_rate=chosen.advice_rate,
            ask_reward=chosen.reward,
            ask_reward_never=found[0].reward,
            ask_reward_always=found[-1].reward,
            ask_reward_held_out=reward,
            ask_gain_held_out=None if reward is None else reward - found[0].reward,
            ask_without_draft=sum(one.episode.confidence is None for one in experiences if one.grade.score is not None),
            ask_without_advice=len(cases) - len(advised),
            ask_advisor_score=fsum(advised) / len(advised) if advised else None,
            ask_curve=_curve(found),
        )


def _case(task: Task, experience: Experience, advised: float | None) -> Case:
    """Without a draft (no confidence) the executor does not ask."""
    sure, score = experience.episode.confidence, experience.grade.score
    return Case(sure or 0.0, score or 0.0, None if sure is None else advised, task.input_id)


def _executor(agent: Agent) -> AgileExecutor:
    if not isinstance(agent.executor, AgileExecutor):
        raise InputError("only an agent with an executor asks for advice; give it one: executor=tt.AgileExecutor()", field="agent.executor")
    return agent.executor


async def _ask(advisor: ReferenceAdvisor, practice: Practice, task: Task, experience: Experience, assumed: float) -> float | None:
    """The score of the simulated advisor's answer as the agent's; None where it has none. `assumed` where nobody can grade it alone."""
    episode = experience.episode
    asked = Question(text=task.text, choices=tuple(choices_of(task)), agent_version=episode.agent_version, task_id=task.id)
    advice = await advisor.ask(asked)
    if advice is None:
        return None
    followed = Episode(
        task_id=task.id, agent_version=episode.agent_version, segments=(), answer=advice.answer, stop=StopReason.ANSWERED, seed=episode.seed
    )
    score = (await grade_episode(practice.grader, task, followed)).score
    return assumed if score is None else score


def _curve(found: Sequence[Setting]) -> list[JsonValue]:
    """The settings for the report, evenly thinned, both ends kept."""
    every = -(-len(found) // CURVE_POINTS)
    kept = [*found[:-1:every], found[-1]]
    return [
        {"threshold": one.threshold, "advice_rate": one.advice_rate, "score": one.score, "reward": one.reward}
        for one in kept
    ]  # fmt: skip


def _read_options(options: dict[str, Any]) -> Options:
    for name in options:
        if name not in Options.model_fields:
            raise InputError(unknown("an option of ask_threshold", name, Options.model_fields), field=f"learners.ask_threshold.{name}")
    try:
        return Options(**options)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}, and here is {first['input']!r}", field=f"learners.ask_threshold.{place}") from None
