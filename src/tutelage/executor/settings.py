"""How an executor works: which actions there are, how they are written, and what advice costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from tutelage.errors import InputError
from tutelage.executor.action import Action, action
from tutelage.executor.actions import ACTIONS, ANSWERING
from tutelage.executor.ask_when import AskWhen
from tutelage.executor.prompts import SEEK_ADVICE, priced
from tutelage.knowledge import Retrieval
from tutelage.records import Record, ToolSpec
from tutelage.suggest import unknown

DEFAULT_ACTIONS: tuple[str | Action, ...] = ("seek_advice", "reflect", "update_memory", "predict_answer", "submit_answer")


class Settings(Record):
    """The options of an `AgileExecutor`.

    actions: what the model can do beside calling its tools: names of registered actions, `Action` objects, or functions that `action` can
    make one of. opening: actions that the executor itself runs before the model's first turn, without arguments; what they give stands in
    the context. price: of advice, in units of reward. retrieval: which entries of the memory are found. tools: whether the agent's own
    tools and those of its environment can be called (without: to see what they are worth).

    form: whether an action is a line of `text`, or a call of the model's own `tools` form. unparsed: whether a reply without an action is
    answered by naming the actions (`observe`), or taken as the final `answer`. ask_when: let the executor ask by itself where the agent is
    unsure of its draft. keep_advice: what the expert said goes into memory as it is, where the model itself wrote nothing: for models that
    were never taught to. advice_first: advice only in so many first sessions of a stream. place: how many sessions of it went before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    actions: tuple[str | Action, ...] = DEFAULT_ACTIONS
    opening: tuple[str | Action, ...] = ("retrieve_memory",)
    price: float = Field(default=0.3, ge=0)
    retrieval: Retrieval = Retrieval(choose="text", k=3)
    tools: bool = True
    form: Literal["text", "tools"] = "text"
    unparsed: Literal["observe", "answer"] = "observe"
    ask_when: AskWhen | None = None
    keep_advice: bool = False
    advice_first: int | None = Field(default=None, ge=0)
    place: int = Field(default=0, ge=0)

    @field_validator("actions", "opening", mode="before")
    @classmethod
    def _wrap_functions(cls, value: Any) -> tuple[Any, ...]:
        items = (value,) if isinstance(value, str) or callable(value) else value
        return tuple(action(item) if callable(item) and not isinstance(item, Action) else item for item in items)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        for name, items in (("actions", self.actions), ("opening", self.opening)):
            found = [item.name for item in resolve_actions(items, name)]
            if twice := sorted({item for item in found if found.count(item) > 1}):
                raise InputError(f"{', '.join(twice)} stands here twice", field=f"executor.{name}")
        self._check_opening()
        own = any(isinstance(item, Action) and item.name not in ACTIONS for item in self.actions)
        if self.unparsed == "observe" and not own and not self.enabled & set(ANSWERING):
            raise InputError(
                "no action gives an answer; enable predict_answer or submit_answer, or let unparsed be `answer`", field="executor.actions"
            )
        return self

    def _check_opening(self) -> None:
        for item in resolve_actions(self.opening, "opening"):
            if item.spec.parameters.get("required") or item.name in (*ANSWERING, "clear_context"):
                raise InputError(f"`{item.name}` cannot be run before the model's first turn", field="executor.opening")

    @property
    def enabled(self) -> frozenset[str]:
        """The names of the model's actions."""
        return frozenset(item.name for item in resolve_actions(self.actions, "actions"))

    @property
    def may_ask(self) -> bool:
        """Whether advice is to be had in this session of the stream."""
        return self.advice_first is None or self.place < self.advice_first

    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told of its actions, with the price of advice; of advice nothing where there is none."""
        items = resolve_actions(self.actions, "actions")
        return tuple(priced(item.spec, self.price) for item in items if self.may_ask or item.name != SEEK_ADVICE)

    def described(self) -> dict[str, Any]:
        """All that decides the agent's behaviour; of its place in a stream whether there is advice."""
        own = self.model_dump(mode="json", exclude_defaults=True, exclude={"actions", "opening", "place"})
        own["actions"] = [item.spec.canonical() for item in resolve_actions(self.actions, "actions")]
        own["opening"] = [item.spec.canonical() for item in resolve_actions(self.opening, "opening")]
        return {"agile": own if self.may_ask else {**own, "advice": "over"}}


def resolve_actions(items: Iterable[str | Action], field: str) -> tuple[Action, ...]:
    """The actions themselves. Raises `InputError` for a name that is not registered."""
    return tuple(item if isinstance(item, Action) else _registered(item, field) for item in items)


def _registered(name: str, field: str) -> Action:
    if name not in ACTIONS:
        raise InputError(unknown("an action", name, ACTIONS), field=f"executor.{field}")
    return ACTIONS[name]
