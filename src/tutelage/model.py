"""The contract of a language model, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast, runtime_checkable
from urllib.parse import parse_qsl

from tutelage.adapter import Adapter
from tutelage.errors import InputError
from tutelage.prices import Price
from tutelage.records import Completion, Message, Sampling, ToolSpec
from tutelage.registry import MODELS, load
from tutelage.suggest import unknown


@runtime_checkable
class Model(Protocol):
    """Anything that answers messages.

    name: `kind:which`, part of the agent's version. native_tools: the model takes `tools` and returns tool calls itself; where False the
    prompt describes the tools and the text is parsed. price: USD per token, None where unknown.
    """

    @property
    def name(self) -> str:
        """`kind:which`."""
        ...

    @property
    def native_tools(self) -> bool:
        """Whether the model takes tools and returns calls itself."""
        ...

    @property
    def price(self) -> Price | None:
        """US dollars per token; None where unknown."""
        ...

    async def complete(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = ...) -> Completion:
        """Answer the conversation. Raises `ModelFailed` for one failed call, `ModelUnavailable` where every call would fail."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A model that can wear learned weights."""

    def with_adapter(self, adapter: Adapter) -> Model:
        """The same model with the adapter; its name says which. Raises `InputError` where the adapter belongs to another base."""
        ...


def load_model(name: str | Model, adapter: Adapter | None = None) -> Model:
    """The model called `kind:which?option=value&...`, loaded once per process; a Model object is returned as it is.

    Kinds: `gguf` (in process), `hf` (in process, with torch), `endpoint` (any OpenAI-compatible server), `scripted` (offline double).
    adapter: learned weights to put on it. Raises `InputError` for an unknown kind or option, and for an adapter that does not fit.
    """
    model = _load(name) if isinstance(name, str) else name
    if adapter is None:
        return model
    if not isinstance(model, Adaptable):
        raise InputError(f"the model {model.name} cannot wear an adapter; use the gguf or hf model that it was trained on", field="adapter")
    return model.with_adapter(adapter)


@cache
def _load(name: str) -> Model:
    kind, colon, rest = name.partition(":")
    if not colon or kind not in MODELS:
        raise InputError(f"{unknown('a kind of model', kind, MODELS)} Write kind:which, such as gguf:smollm2-135m", field="model")
    which, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return cast(Model, load(MODELS[kind]).from_name(which, options))
