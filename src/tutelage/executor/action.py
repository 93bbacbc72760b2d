"""An action: a typed, documented function of the session and of what the model gives it.

@action
def note(session: Session, text: str) -> str:
    '''Keep a remark for later in this session.

    Args:
        text: The remark.
    '''
    session.reflection = text
    return "kept"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, overload

from tutelage.errors import ToolError, TutelageError
from tutelage.executor.session import Session
from tutelage.records import ToolSpec
from tutelage.signature import refuse
from tutelage.tool import Tool, tool

Function = Callable[..., Any]


@dataclass(frozen=True)
class Action:
    """Something that the model can do in a session. `declared` is what it is told; the function gets the session first."""

    function: Function
    declared: Tool = field(repr=False)

    @property
    def spec(self) -> ToolSpec:
        """Name, description and arguments, without the session."""
        return self.declared.spec

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def bound(self, session: Session) -> Tool:
        """The action as a tool of this session."""
        function = self.function

        async def waits(**values: Any) -> Any:
            with _troubles_noted(session):
                return await function(session, **values)

        def returns(**values: Any) -> Any:
            with _troubles_noted(session):
                return function(session, **values)

        run: Function = waits if inspect.iscoroutinefunction(function) else returns
        run.__annotations__ = {"return": function.__annotations__.get("return", "")}
        return replace(self.declared, function=run)


@contextmanager
def _troubles_noted(session: Session) -> Iterator[None]:
    """What is not the model's to see (a model, a store or a setting that failed) goes to `session.trouble` too."""
    try:
        yield
    except ToolError:
        raise
    except TutelageError as error:
        session.trouble = error
        raise


@overload
def action(function: Function, *, name: str | None = None, seconds: float = 30.0, max_chars: int = 20_000) -> Action: ...


@overload
def action(*, name: str | None = None, seconds: float = 30.0, max_chars: int = 20_000) -> Callable[[Function], Action]: ...


def action(
    function: Function | None = None, *, name: str | None = None, seconds: float = 30.0, max_chars: int = 20_000
) -> Action | Callable[[Function], Action]:
    """Make an action of a typed, documented function, sync or async, whose first parameter is `session: Session`.

    What it returns is what the model sees. It may change the session: `finish` ends it, `cleared` lets the context begin anew. Everything
    else is as of a tool (`tutelage.tool.tool`): the schema comes from the signature, the descriptions from the docstring, the limits are
    those of one call, and what it raises is an observation. Raises `InputError` for what cannot be described to a model.
    """
    if function is None:
        return lambda decorated: action(decorated, name=name, seconds=seconds, max_chars=max_chars)
    return Action(function, tool(_without_session(function), name=name, seconds=seconds, max_chars=max_chars))


def _without_session(function: Function) -> Function:
    """The function as the model knows it: its first parameter left out."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "session":
        refuse(function, "an action's first parameter is `session: Session`")

    @wraps(function)
    def described(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    described.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
    described.__annotations__ = {key: value for key, value in function.__annotations__.items() if key != "session"}
    return described
