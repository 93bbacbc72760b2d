"""What study files and agent files may say: the keys of their YAML, checked by type."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tutelage.agent import Limits
from tutelage.budget import Budget
from tutelage.prices import Price
from tutelage.records import Sampling

Named = str | dict[str, Any]
"""A name, or {name: {options}}."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentFile(_Section):
    """The agent of a study, or an agent file of its own."""

    model: str = Field(description="kind:which, such as gguf:smollm2-135m, gguf:/path/model.gguf or endpoint:gpt-4o-mini")
    instructions: str = Field("", description="The system prompt.")
    tools: str | list[Named] | None = Field(
        None,
        description="Python files beside this file, whose @tool functions are the agent's tools; or built-in tools: "
        "python, {sql: {database: shop.db}}.",
    )
    knowledge: str | None = Field(
        None,
        description="A learned agent's JSON (from RUN/agents/), whose knowledge the agent is to use, with the weights it wears.",
    )
    adapter: str | None = Field(
        None,
        description="Learned weights to put on the model: a folder such as RUN/adapters/ID, beside this file. "
        "`null` leaves off those that `knowledge` would bring.",
    )
    sampling: Sampling = Sampling()
    limits: Limits | None = None
    stop_on_tool: bool = Field(False, description="The first valid tool call is the answer.")
    executor: dict[str, Any] | None = Field(
        None,
        description="The agent works through actions and may ask for advice: {actions: [...], price: 0.3}; `without` leaves actions out.",
    )
    workflow: dict[str, Any] | None = Field(
        None,
        description="Several agents work together: {refine: {worker: {}, evaluator: {instructions: ...}, rounds: 2}}; "
        "parts inherit these keys.",
    )


class TasksFile(_Section):
    """Where tasks come from: `train` and `test` files, one `file` split at random, or a generator named by `from`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    train: str | int = Field(description="A file, or with `file` or `from` the number of training tasks.")
    test: str | int = Field(description="A file, or with `file` or `from` the number of test tasks.")
    file: str | None = None
    source: Named | None = Field(None, alias="from", description="Where tasks are generated: shop, or {reasoning: {family: chain_sum}}.")
    seed: int = Field(0, description="Of the random split of `file`, or of the generator.")
    format: str | None = Field(None, description="openai, plain, bfcl or task; found from the content where left out.")
    columns: dict[str, str] | None = Field(None, description="For CSV and JSONL: {input: COLUMN, reference: COLUMN}.")


class StudyFile(_Section):
    """A study: an agent, tasks, a grader, and the ways of learning to compare."""

    name: str
    agent: AgentFile
    tasks: TasksFile
    grader: str | dict[str, Any] = Field(description="A grader's name, {name: {options}}, or file.py:function.")
    learners: list[Named] = Field([], description="Each a learner's name or {name: {options}}; `as` names the arm.")
    agents: dict[str, dict[str, Any]] = Field(
        {}, description="Further arms without learning: a name and what differs from `agent`; of its `executor` what differs there."
    )
    environment: Named | None = Field(
        None, description="A built-in environment's name, {name: {options}}, or file.py:Class; made fresh for each episode."
    )
    advisor: Named | None = Field(
        None,
        description="Who is asked for advice: {reference: {error_rate: 0.1}}, {model: {model: endpoint:NAME}}, {inbox: {seconds: 600}}, "
        "or file.py:Class.",
    )
    budget: Budget = Budget()
    seeds: list[int] = Field([0], description="Each seed repeats learning and use.")
    curve: list[int] = Field([], description="Also learn from only the first n training tasks, for the plot of score against experience.")
    concurrency: int | None = Field(None, description="Episodes at once; the model's own choice where left out.")
    prices: dict[str, Price] = Field({}, description="US dollars per million tokens by model name.")
