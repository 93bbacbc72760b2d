"""The agent: everything that decides behaviour, as one frozen, content-addressed value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import ConfigDict, field_validator, model_validator

from tutelage.adapter import Adapter, as_adapter
from tutelage.environment import Environment
from tutelage.errors import InputError
from tutelage.knowledge import Knowledge
from tutelage.memory import Memory
from tutelage.model import Model, load_model
from tutelage.records import Episode, Record, Sampling, Task, content_id
from tutelage.tool import Tool, tool

if TYPE_CHECKING:
    from tutelage.advice import Advisor  # screens texts, which no agent needs


class Limits(Record):
    """When an episode is cut off. None: no limit. `steps` counts model turns."""

    steps: int = 8
    tokens: int | None = None
    seconds: float | None = None
    cost_usd: float | None = None


RunPart = Callable[["Agent", Task, str], Awaitable[Episode]]
"""Runs one of a workflow's agents on a task, under the name of its part ("evaluator")."""


@runtime_checkable
class Workflow(Protocol):
    """How several agents work on one task together. The implementations are in `tutelage.workflows`.

    name: for reports. `described()`: all that decides its behaviour, as JSON.
    """

    @property
    def name(self) -> str:
        """The pattern's name."""
        ...

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour; agents by their version."""
        ...

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """Work on the task by running parts; the answer of the whole. Each episode that `run_part` gave is kept in the whole's."""
        ...


@dataclass(frozen=True)
class Scene:
    """What an episode is given beside its agent: the whole's task, the world and its opening words, models, and who may be asked.

    memory: chooses exemplars in place of the agent's own snapshot. seed, attempt: enter the seeds of sampling.
    """

    task: Task
    world: Environment | None
    opening: str | None
    models: Callable[[Agent], Model]
    attempt: int = 0
    seed: int = 0
    advisor: Advisor | None = None
    memory: Memory | None = None


@runtime_checkable
class Executor(Protocol):
    """What runs an agent's session on a task in place of the plain loop. The implementation is in `tutelage.executor`.

    name: for reports. `described()`: all that decides its behaviour, as JSON.
    """

    @property
    def name(self) -> str:
        """The executor's name."""
        ...

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        ...

    async def run(self, agent: Agent, task: Task, scene: Scene) -> Episode:
        """Work on the task, once. Raises as `run_episode` does."""
        ...


class Agent(Record):
    """A model with its instructions, tools and knowledge. Learning returns a new Agent; nothing is changed in place.

    model: a name (`gguf:smollm2-135m`) or a Model object. tools: Tool objects or plain typed functions. stop_on_tool: hand the first
    valid tool call over as the answer instead of asking the model to go on after it. workflow: the agent's work is done by several agents
    together (see `tutelage.workflows`, whose functions make such agents); model, instructions and tools are then those of the first part.
    adapter: weights learned on top of the model, or the folder they lie in. executor: runs the agent's sessions as actions that it chooses
    (see `tutelage.executor`) in place of the plain loop; an agent has a workflow or an executor, not both (`InputError`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: str | Model
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    knowledge: Knowledge = Knowledge()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    stop_on_tool: bool = False
    adapter: Adapter | None = None
    workflow: Workflow | None = None
    executor: Executor | None = None

    @field_validator("tools", mode="before")
    @classmethod
    def _wrap_functions(cls, value: Any) -> tuple[Tool, ...]:
        return tuple(item if isinstance(item, Tool) else tool(item) for item in value)

    @field_validator("adapter", mode="before")
    @classmethod
    def _read_adapter(cls, value: Any) -> Any:
        return as_adapter(value)

    @model_validator(mode="after")
    def _one_way_to_work(self) -> Agent:
        if self.workflow is not None and self.executor is not None:
            raise InputError("an agent has a workflow or an executor, not both; give the workflow's agents the executor", field="executor")
        return self

    @cached_property
    def version(self) -> str:
        """Hash of everything that decides behaviour; tools enter by their schema, the model by its own name.

        A model's own name leaves out what changes only its speed, and for a file says which content it has.
        """
        return content_id(self.described())

    def described(self) -> dict[str, Any]:
        """The agent as JSON: what `version` is the hash of."""
        own: dict[str, Any] = {
            "model": self.load().name,
            "instructions": self.instructions,
            "tools": [item.spec.canonical() for item in self.tools],
            "knowledge": self.knowledge.id,
            "sampling": self.sampling.canonical(),
            "limits": self.limits.canonical(),
            "stop_on_tool": self.stop_on_tool,
            "adapter": self.adapter and self.adapter.id,
        }
        if self.workflow is not None:
            own["workflow"] = self.workflow.described()
        if self.executor is not None:
            own["executor"] = self.executor.described()
        return own

    @cached_property
    def memory(self) -> Memory:
        """The chooser of exemplars over `knowledge`, indexed at first use."""
        return Memory(self.knowledge)

    @property
    def model_name(self) -> str:
        """The model's name as it was given."""
        return self.model if isinstance(self.model, str) else self.model.name

    def load(self) -> Model:
        """The model itself, loaded at first use."""
        return load_model(self.model, self.adapter)

    def but(self, **changes: Any) -> Agent:
        """A new agent with these fields changed (validated)."""
        return Agent(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


ToolLike = Tool | Callable[..., Any]
