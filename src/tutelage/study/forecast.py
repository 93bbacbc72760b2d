"""What a study will cost and what it can show, before anything is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from time import perf_counter

from rich.console import Console
from rich.table import Table

from tutelage.agent import Agent
from tutelage.episode import run_episode
from tutelage.learners.exemplars import reference_exemplars
from tutelage.prices import FREE, Price
from tutelage.prompt import build_messages
from tutelage.records import Message, Record, Task, Usage
from tutelage.study.run import Study
from tutelage.study.statistics import smallest_detectable

CHARACTERS_PER_TOKEN = 4
PROBES = 2
"""Trial episodes on training tasks for the forecast of time; only where the model is free, so that a forecast costs no money."""


class Forecast(Record):
    """Expected totals. None: unknown.

    detectable: the smallest difference of two arms that the test split shows with 80% power (infinite: none).
    """

    episodes: int
    calls: int
    calls_at_most: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    seconds: float | None
    detectable: float
    notes: tuple[str, ...] = ()


def forecast(study: Study) -> Forecast:
    """Forecast the study. Raises `InputError` where the study could not run at all."""
    study.check()
    learning = sum(learner.forecast_calls(len(study.train)) for learner in study.learners.values()) * len(study.seeds)
    testing = len(study.test) * len(study.seeds) * (1 + len(study.agents) + len(study.learners))
    curve = len(study.test) * len([n for n in set(study.curve) if n < len(study.train)]) * len(study.learners)
    episodes = learning + testing + curve
    turns = _turns(study.agent)
    calls = episodes * min(turns, study.agent.limits.steps)
    tokens_in, tokens_out = _tokens_a_call(study)
    price = _price(study)
    usage = Usage(calls=calls, tokens_in=calls * tokens_in, tokens_out=calls * tokens_out)
    seconds, note = _seconds(study, price)
    return Forecast(
        episodes=episodes,
        calls=calls,
        calls_at_most=episodes * study.agent.limits.steps,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        usd=price and price.cost(usage),
        seconds=None if seconds is None else seconds * episodes,
        detectable=smallest_detectable(len(study.test)),
        notes=(f"{turns} model turn(s) an episode are assumed", f"a token is taken as {CHARACTERS_PER_TOKEN} characters", note),
    )


def _turns(agent: Agent) -> int:
    """Model turns an episode: an answer, a tool call and an answer, or in a session three actions, as after advice."""
    if agent.executor is not None:
        return 3
    return 1 if agent.stop_on_tool or not agent.tools else 2


def _tokens_a_call(study: Study) -> tuple[int, int]:
    """Mean prompt and answer tokens over the arms, estimated from the training tasks."""
    sample = study.train[:50]
    base = fmean(_characters(_prompt(study.agent, task)) for task in sample)
    cases = reference_exemplars(sample)
    case = fmean(_characters(case.messages) for case in cases) if cases else 200.0
    shown = [getattr(getattr(learner, "retrieval", None), "k", 0) for learner in study.learners.values()]
    arms = [base, *[base for _ in study.agents], *[base + k * case for k in shown]]
    answer = fmean(_characters([message for message in case.messages if message.role == "assistant"]) for case in cases) if cases else 200.0
    return round(fmean(arms) / CHARACTERS_PER_TOKEN), max(1, min(study.agent.sampling.max_tokens, round(answer / CHARACTERS_PER_TOKEN)))


def _prompt(agent: Agent, task: Task) -> Sequence[Message]:
    specs = [*(tool.spec for tool in agent.tools), *task.tools]
    return build_messages(agent.instructions, task, specs, native_tools=False)


def _characters(messages: Sequence[Message]) -> int:
    calls = sum(len(call.name) + len(call.arguments) + 40 for message in messages for call in message.tool_calls)
    return sum(len(message.text) + 8 for message in messages) + calls


def _price(study: Study) -> Price | None:
    return study.prices.get(study.agent.model_name) or study.agent.load().price


def _seconds(study: Study, price: Price | None) -> tuple[float | None, str]:
    """Seconds an episode takes, measured on the baseline; None for models that cost money, or whose price is unknown."""
    if price != FREE:
        return None, "time is not forecast: a trial call of this model might cost money"
    tasks = list(study.train[: PROBES + 1])

    async def probe() -> float:
        await run_episode(study.agent, tasks[0], environment=study.environment)  # loads the model and fills its prefix cache
        begun = perf_counter()
        for task in tasks[1:]:
            await run_episode(study.agent, task, environment=study.environment)
        return (perf_counter() - begun) / max(1, len(tasks) - 1)

    trials = max(1, len(tasks) - 1)
    return asyncio.run(probe()), f"time comes from {trials} trial episodes of the baseline; prompts with exemplars take longer"


def _detectable(difference: float) -> str:
    return f"{difference:.3f} (80% power, 5% level)" if isfinite(difference) else "none: there are too few test tasks to show any"


def print_forecast(result: Forecast) -> None:
    """Print it as a table with its assumptions."""
    table = Table(title="Forecast (nothing of the study was run)", title_justify="left", show_header=False)
    table.add_row("episodes", f"{result.episodes:,}")
    table.add_row("model calls", f"about {result.calls:,}, at most {result.calls_at_most:,}")
    table.add_row("tokens", f"about {result.tokens_in:,} in, {result.tokens_out:,} out")
    table.add_row("time", "unknown" if result.seconds is None else f"at least {result.seconds / 60:.1f} minutes, one at a time")
    table.add_row("money", "unknown: no price for this model" if result.usd is None else f"about {result.usd:.2f} US dollars")
    table.add_row("smallest difference the test can show", _detectable(result.detectable))
    console = Console()
    console.print(table)
    for note in result.notes:
        console.print(f"- {note}")
