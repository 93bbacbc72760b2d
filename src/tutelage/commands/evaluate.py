"""Scoring one agent on one task file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tutelage.collector import Collector, Job
from tutelage.experience.store import RunLock, Store
from tutelage.graders.load import make_grader
from tutelage.progress import Bars
from tutelage.records import Experience, Record
from tutelage.study.config import load_agent
from tutelage.study.statistics import score_interval
from tutelage.tasks import read_tasks


class Evaluation(Record):
    """The mean score with its 95% interval over `graded` of `tasks` episodes, and what one task cost on average."""

    agent_version: str
    tasks: int
    graded: int
    abstained: int
    score: float | None
    interval: tuple[float, float] | None
    tokens_in: float
    tokens_out: float
    usd: float | None
    seconds: float


def evaluate_files(agent: Path, tasks: Path, grader: str, *, out: Path | None, limit: int | None) -> Evaluation:
    """Run the agent once on every task. With `out`, episodes are kept there and an interrupted run continues."""
    if out is None:
        return _evaluate(agent, tasks, grader, Store(":memory:"), limit)
    with RunLock(out):
        store = Store(out / "experience.sqlite")
        try:
            return _evaluate(agent, tasks, grader, store, limit)
        finally:
            store.close()


def _evaluate(agent_path: Path, tasks_path: Path, grader: str, store: Store, limit: int | None) -> Evaluation:
    agent = load_agent(agent_path)
    tasks = read_tasks(tasks_path, limit=limit)
    collector = Collector(make_grader(grader, Path.cwd()), store=store, study="eval", progress=Bars())
    experiences = asyncio.run(collector.run(agent, [Job(task) for task in tasks], arm=agent_path.stem))
    return _summary(agent.version, experiences)


def _summary(agent_version: str, experiences: list[Experience]) -> Evaluation:
    scores = [x.grade.score for x in experiences if x.grade.score is not None]
    n = len(experiences)
    costs = [x.episode.cost_usd for x in experiences]
    return Evaluation(
        agent_version=agent_version,
        tasks=n,
        graded=len(scores),
        abstained=sum(x.grade.abstained and x.grade.score is None for x in experiences),
        score=sum(scores) / len(scores) if scores else None,
        interval=score_interval(scores) if scores else None,
        tokens_in=sum(x.episode.usage.tokens_in for x in experiences) / n,
        tokens_out=sum(x.episode.usage.tokens_out for x in experiences) / n,
        usd=None if None in costs else sum(cost for cost in costs if cost is not None) / n,
        seconds=sum(x.episode.seconds for x in experiences) / n,
    )


def print_evaluation(result: Evaluation) -> None:
    """Print it as a small table."""
    table = Table(show_header=False)
    score = "not graded" if result.score is None else f"{result.score:.3f}"
    if result.interval:
        score += f"   95% interval {result.interval[0]:.3f} to {result.interval[1]:.3f}"
    table.add_row("score", score)
    abstained = f"; the grader abstained on {result.abstained}" if result.abstained else ""
    table.add_row("graded", f"{result.graded} of {result.tasks} tasks{abstained}")
    table.add_row("a task", f"{result.tokens_in:.0f} tokens in, {result.tokens_out:.0f} out, {result.seconds:.2f} s")
    table.add_row("US dollars a task", "unknown (no price for this model)" if result.usd is None else f"{result.usd:.6f}")
    table.add_row("agent", result.agent_version)
    Console().print(table)
