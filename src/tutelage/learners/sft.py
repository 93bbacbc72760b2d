"""SFT: supervised fine-tuning. The agent's weights learn to say what a good answer said.

Demonstrations are the tasks' reference answers, the agent's own episodes that were graded a success (rejection sampling; Yuan et al. 2023,
arXiv:2308.01825) or a file. Prompts are those that the agent is asked with, exemplars and insights included, of which none is the task's
own; distilled, they are left out of the prompts, and of what the agent knows afterwards (context distillation; Snell et al. 2022,
arXiv:2209.15189).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.knowledge import Knowledge
from tutelage.learner import Need
from tutelage.learners.demonstrations import Keyed, from_references, from_successes, no_success
from tutelage.learners.supervised import (
    Form,
    Gathering,
    check_file,
    described,
    learn_weights,
    prompt_key,
    render,
    trainable_base,
)
from tutelage.practice import Practice
from tutelage.records import content_id
from tutelage.training.objectives import check_objective, check_replies
from tutelage.training.row_files import read_sft_rows
from tutelage.training.rows import SFTRow
from tutelage.training.settings import read_settings
from tutelage.training.supervised import train_sft
from tutelage.training.supervised_job import Job, SFTSettings, Trained

if TYPE_CHECKING:
    from tutelage.training.chat import TokenRow

Source = Literal["reference", "success", "file"]


class Options(Gathering, SFTSettings):
    """`SFTSettings`, and where the rows come from: see `Gathering`.

    source: `reference` answers, `success` (own episodes), `file`. distil: learn what the knowledge in the prompt brings about, without it.
    """

    source: Source = "reference"
    distil: bool = False


class SFT:
    """Learn from demonstrations. The options are those of `Options`; a wrong one raises `InputError`."""

    name = "sft"

    def __init__(self, source: Source = "reference", **options: Any) -> None:
        self.options = read_settings(Options, {"source": source, **options}, self.name)
        check_file(self.options.source, self.options.file)
        check_objective(self.options, sampled=True)
        if self.options.distil and source == "file":
            raise InputError("the prompts of a file are what they are; distil from references or successes", field="distil")
        own = {"reference": {Need.REFERENCES}, "success": {Need.GRADES}, "file": set[Need]()}[self.options.source]
        self.needs = frozenset({Need.WEIGHTS, *own})

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return f"{self.name}-distil" if self.options.distil else self.name

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        return {self.name: described(self.options, self.options.file)}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes that learning will run."""
        return n_tasks * self.options.attempts if self.options.source == "success" else 0

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights that it learned; where it wears an adapter, that one learned on.

        Where no episode was a success the agent is given back as it was, and the report says so. Raises what `train_sft` raises, and
        `InputError` for a model whose weights are not here, tasks without references, and rows that the chat template loses or changes.
        """
        base = await trainable_base(agent)
        check_replies(self.options, agent)
        keyed = await self._rows(agent, practice)
        if not keyed:
            practice.note(nothing_learned=no_success(self.options))
            return agent
        data = content_id([row.model_dump(mode="json", exclude={"source"}) for _, row in keyed])
        learned = await learn_weights(agent, practice, base, self, self.options, data, lambda job: self._train(job, practice, keyed))
        return learned.but(knowledge=Knowledge()) if self.options.distil else learned

    async def _rows(self, agent: Agent, practice: Practice) -> Keyed:
        source = self.options.source
        if source == "file":
            return [(prompt_key(row.prompt), row) for row in read_sft_rows(str(self.options.file))]
        if source == "reference":
            return await from_references(agent, practice, bare=self.options.distil)
        return await from_successes(agent, practice, self.options, bare=self.options.distil)

    def _train(self, job: Job, practice: Practice, keyed: Keyed) -> Trained:
        """References and files are checked strictly: a row of theirs that the template cannot carry is a mistake to mend."""
        items, validation = render(FORM, job, practice, keyed, self.options, forgiving=self.options.source == "success")
        return train_sft(job, items, self.options, validation=validation)


def _turns(tokenizer: Any, row: SFTRow) -> Sequence[TokenRow]:
    from tutelage.training.chat import render_turns

    return render_turns(tokenizer, row)


FORM = Form("rows", _turns, lambda row: (row,))
