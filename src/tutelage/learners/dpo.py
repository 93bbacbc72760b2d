"""DPO: direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290). The weights learn to prefer the better of two answers.

Pairs are a success and a failure of the agent itself at one task (or two scores that lie `margin` apart), two attempts that a judge of
pairs compares, or come from a file: a person's. The loss is in `training/dpo_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.experience.views import by_task, preference_rows
from tutelage.learner import Need
from tutelage.learners.judged_pairs import judged_pairs, pair_judge
from tutelage.learners.supervised import (
    Form,
    Gathering,
    check_file,
    described,
    learn_weights,
    prompt_key,
    render,
    tools_of,
    trainable_base,
    trying,
)
from tutelage.practice import Practice
from tutelage.records import content_id
from tutelage.training.row_files import read_preference_rows
from tutelage.training.rows import PreferenceRow
from tutelage.training.settings import read_settings
from tutelage.training.supervised import train_dpo
from tutelage.training.supervised_job import DPOSettings, Job, TokenPair, Trained

Source = Literal["episodes", "judge", "file"]
Keyed = list[tuple[str, PreferenceRow]]


class Options(Gathering, DPOSettings):
    """`DPOSettings`, and where the pairs come from: see `Gathering`.

    source: own `episodes` by their grades, own episodes as a `judge` compares them, or a `file`. margin: a pair is any two scores that lie
    so far apart (None: a success and a failure). pairs: `best` makes each episode part of one pair at most, `all` takes every pair, those
    furthest apart first. Of all `per_task` are kept; a judge knows neither margin nor scores.
    """

    source: Source = "episodes"
    attempts: int = Field(4, ge=2)
    temperature: float | None = Field(1.0, gt=0)
    margin: float | None = Field(None, gt=0)
    pairs: Literal["best", "all"] = "best"
    per_task: int = Field(2, ge=1)


class DPO:
    """Learn from preferences. The options are those of `Options`; a wrong one raises `InputError`.

    judge: with `source: judge`, the file of a calibrated judge of pairs, or the keys of one: {model: ..., criteria: ...}.
    """

    name = "dpo"

    def __init__(self, source: Source = "episodes", *, judge: Any = None, **options: Any) -> None:
        self.options = read_settings(Options, {"source": source, **options}, self.name)
        check_file(self.options.source, self.options.file)
        if (source == "judge") != (judge is not None):
            wrong = "name the judge" if judge is None else "a judge is asked with `source: judge` only"
            raise InputError(wrong, field="judge")
        self.judge = None if judge is None else pair_judge(judge)
        self.needs = frozenset({Need.WEIGHTS, Need.GRADES} if source == "episodes" else {Need.WEIGHTS})

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        judge = {} if self.judge is None else {"judge": self.judge.name}
        return {self.name: {**described(self.options, self.options.file), **judge}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes that learning will run."""
        return n_tasks * self.options.attempts if self.options.source != "file" else 0

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights that it learned; where it wears an adapter, that one learned on. The reference is the agent as it was.

        Where no two episodes make a pair the agent is given back as it was, and the report says so. Raises what `train_dpo` raises, and
        `InputError` for a model whose weights are not here, and pairs of a file that the chat template loses or changes.
        """
        base = await trainable_base(agent)
        keyed = await self._pairs(agent, practice)
        if not keyed:
            practice.note(nothing_learned=self._nothing_found())
            return agent
        data = content_id([row.model_dump(mode="json", exclude={"source"}) for _, row in keyed])
        return await learn_weights(agent, practice, base, self, self.options, data, lambda job: self._train(job, practice, keyed))

    async def _pairs(self, agent: Agent, practice: Practice) -> Keyed:
        options = self.options
        if options.source == "file":
            return [(prompt_key(row.prompt), row) for row in read_preference_rows(str(options.file))]
        experiences = await practice.collect(trying(agent, options.attempts, options.temperature), attempts=options.attempts)
        known = {task.id: task for task in practice.tasks}
        shared = [spec for group in await tools_of(agent, practice) for spec in group] if agent.load().native_tools else []
        native = agent.load().native_tools
        if self.judge is not None:
            judged = await judged_pairs(
                experiences,
                practice,
                self.judge,
                per_task=options.per_task,
                truncated=options.truncated_episodes,
                tools=lambda task_id: [*shared, *known[task_id].tools] if native else (),
            )
            practice.note(**judged.facts)
            return judged.rows
        return [
            (known[task_id].input_id, row)
            for task_id, tried in by_task(experiences).items()
            for row in preference_rows(
                tried,
                threshold=options.threshold,
                margin=options.margin,
                pairs=options.pairs,
                per_task=options.per_task,
                tools=[*shared, *known[task_id].tools] if native else (),
                truncated=options.truncated_episodes,
            )
        ]

    def _train(self, job: Job, practice: Practice, keyed: Keyed) -> Trained:
        """Files are checked strictly: a pair of theirs that the template cannot carry is a mistake to mend."""
        items, validation = render(FORM, job, practice, keyed, self.options, forgiving=self.options.source != "file")
        return train_dpo(job, items, self.options, validation=validation)

    def _nothing_found(self) -> str:
        if self.judge is not None:
            return "the judge preferred no attempt to another, so there is nothing to learn from: raise attempts, or set temperature"
        apart = "one success and one failure" if self.options.margin is None else f"scores {self.options.margin:g} apart"
        missing = f"no training task had {apart} on one prompt"
        return f"{missing}, so there is nothing to learn from: raise attempts, or set temperature or margin"


def _pair(tokenizer: Any, row: PreferenceRow) -> Sequence[TokenPair]:
    from tutelage.training.chat import render_preference

    return [TokenPair(*render_preference(tokenizer, row), row.weight)]


FORM = Form("pairs", _pair, lambda pair: (pair.chosen, pair.rejected))
