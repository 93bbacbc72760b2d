"""Who advises the agents of a study: what `advisor:` in its file says, as an `Advisor`.

Prices are not said here: what advice costs an agent stands in its `executor`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tutelage.advice import INSTRUCTIONS, Advice, Advisor, ModelAdvisor, Question, ReferenceAdvisor, described_advisor, reference_text
from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.graders.judge_models import Models
from tutelage.inbox import GO_ON, WAIT, Inbox, Person, Terms
from tutelage.model import Model, load_model
from tutelage.python_file import load_attribute
from tutelage.records import Completion, Message, Sampling, Task
from tutelage.suggest import unknown

KNOWN = ("reference", "model", "inbox")
SHORT, LONG = "short", "long"


@runtime_checkable
class AsksModels(Protocol):
    """An advisor that asks models, and can be given others to ask: metered ones, whose replies are kept."""

    def bind(self, models: Models) -> Advisor:
        """The same advisor, asking the models that `models` gives."""
        ...


def bind_advisor(advisor: Advisor | None, models: Models) -> Advisor | None:
    """The advisor with the models that it is to ask; one that asks none as it is."""
    return advisor.bind(models) if isinstance(advisor, AsksModels) else advisor


def refuse_another(folder: Path, advisor: Advisor | None) -> None:
    """Note whom the sessions of this run ask. Raises `InputError` where it was another: stored sessions would be taken for its own."""
    path = folder / "advisor.json"
    now = json.dumps(advisor and described_advisor(advisor), indent=1)
    try:
        before = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        write_atomically(path, now + "\n")
        return
    if before != now:
        raise InputError(
            "the sessions of this run asked another advisor; choose another folder for this one (--out)", file=path, field="advisor"
        )


# -- the kinds


class Expert(ReferenceAdvisor):
    """`reference`: the reference answers. say: `short`, the first of several right answers; `long`, the last; or `file.py:function`.

    in_short: the same expert, right and wrong on the same tasks, who gives the short answer: what may be handed over as it is.
    """

    def __init__(self, tasks: Sequence[Task], folder: Path, *, error_rate: float = 0.0, seed: int = 0, say: str = SHORT) -> None:
        words = {SHORT: reference_text, LONG: _long_text}
        if say not in words and ".py:" not in say:
            raise InputError(f"`{say}` is no way to say it; write {SHORT}, {LONG} or file.py:function", field="say")
        super().__init__(tasks, error_rate=error_rate, seed=seed, say=words[say] if say in words else load_attribute(say, folder))
        self._say = say
        self.in_short: Advisor = self if say == SHORT else ReferenceAdvisor(tasks, error_rate=error_rate, seed=seed)

    def described(self) -> dict[str, Any]:
        """The settings."""
        return {"reference": {"error_rate": self.error_rate, "seed": self.seed, "say": self._say}}


def _long_text(task: Task) -> str | None:
    """The reference as words; of several right answers the last, which in [short answer, long answer] has the reason."""
    several = isinstance(task.reference, list | tuple) and bool(task.reference)
    return reference_text(task.model_copy(update={"reference": task.reference[-1]}) if several else task)  # type: ignore[index]


class BigModel:
    """`model`: a stronger model. sampling: greedy unless it says otherwise."""

    price = 0.0

    def __init__(
        self, model: str, *, instructions: str = INSTRUCTIONS, sampling: Mapping[str, Any] | None = None, models: Models | None = None
    ) -> None:
        self.model, self.instructions, self._given = model, instructions, sampling
        self.sampling = Sampling.model_validate(dict(sampling or {}))
        self._models: Models = models or _loaded
        self._advisor = ModelAdvisor(model, self._ask, instructions=instructions)
        self.name = self._advisor.name

    def bind(self, models: Models) -> BigModel:
        """The same advisor, asking the model that `models` gives."""
        return BigModel(self.model, instructions=self.instructions, sampling=self._given, models=models)

    def described(self) -> dict[str, Any]:
        """The settings."""
        return {"model": {"model": self.model, "instructions": self.instructions, "sampling": self.sampling.canonical()}}

    async def ask(self, question: Question) -> Advice | None:
        """As `ModelAdvisor.ask`."""
        return await self._advisor.ask(question)

    async def _ask(self, messages: Sequence[Message]) -> Completion:
        return await self._models(self.model).complete(messages, sampling=self.sampling)


def _loaded(model: str | Model) -> Model:
    return load_model(model)


class People:
    """`inbox`: whoever answers with `tutelage inbox`. The questions lie in the run's own store.

    seconds: how long a session waits (None: without end). fallback: what it does then, or where the question is declined: `go_on` without
    advice, `wait` all the same, or another advisor. to: who is asked, by name; "": whoever is there. price_usd: what an answer is paid.
    """

    price = 0.0

    def __init__(self, place: Path, *, terms: Terms, to: str = "", other: Advisor | None = None) -> None:
        self._place, self.terms, self.to, self._other = place, terms, to, other
        self.name = f"person:{to}" if to else "person"

    def bind(self, models: Models) -> People:
        """The same, its other advisor asking the models that `models` gives."""
        return People(self._place, terms=self.terms, to=self.to, other=bind_advisor(self._other, models))

    def described(self) -> dict[str, Any]:
        """The settings."""
        return {"inbox": {"to": self.to, **self.terms.canonical(), "other": self._other and described_advisor(self._other)}}

    async def ask(self, question: Question) -> Advice | None:
        """As `Person.ask`; the inbox is open for as long as the question waits."""
        others = {self._other.name: self._other} if self._other else None
        with Inbox(self._place) as inbox:
            return await Person(inbox, self.terms, to=self.to, others=others).ask(question)


# -- from a study file


def build_advisor(spec: Any, *, tasks: Sequence[Task], place: Path, folder: Path) -> Advisor:
    """The advisor that a study file names. tasks: those it may be asked about. place: the run's store. folder: of the study file.

    Raises `InputError` with the field below `advisor`.
    """
    name, options = _name_and_options(spec)
    if name == "reference":
        expert: Advisor = _made(Expert, "reference", {"tasks": tasks, "folder": folder}, options)
        return expert
    if name == "model":
        big: Advisor = _made(BigModel, "model", {}, options)
        return big
    if name == "inbox":
        return _people(options, tasks=tasks, place=place, folder=folder)
    if ".py:" in name:
        return _from_file(name, options, tasks, folder)
    raise InputError(f"{unknown('an advisor', name, KNOWN)} Or write file.py:Class", field="advisor")


def _name_and_options(spec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise InputError("write one advisor: a name, or {name: {options}}", field="advisor")
    ((name, options),) = spec.items()
    if not isinstance(options or {}, Mapping):
        raise InputError(f"the options of {name} are `key: value` pairs, and here is {options!r}", field=f"advisor.{name}")
    return str(name), dict(options or {})


def _made(kind: Callable[..., Any], name: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """An advisor with these options; a complaint about one names it."""
    known = [option for option in inspect.signature(kind).parameters if option not in {*given, "models"}]
    for option in options:
        if option not in known:
            hint = ". What advice costs an agent stands in its executor: `price`." if option == "price" else ""
            raise InputError(f"{unknown(f'an option of the advisor {name}', str(option), known)}{hint}", field=f"advisor.{name}.{option}")
    try:
        inspect.signature(kind).bind(**given, **options)
        return kind(**given, **options)
    except InputError as wrong:
        raise InputError(wrong.message, file=wrong.file, field=f"advisor.{name}.{wrong.field}" if wrong.field else None) from None
    except (TypeError, ValueError) as wrong:  # pydantic's errors are ValueErrors
        first = wrong.errors()[0]["msg"] if hasattr(wrong, "errors") else str(wrong)
        raise InputError(f"cannot be made with these options: {first}", field=f"advisor.{name}") from None


def _people(options: dict[str, Any], *, tasks: Sequence[Task], place: Path, folder: Path) -> People:
    fallback, other = options.pop("fallback", GO_ON), None
    if fallback not in (GO_ON, WAIT):
        other = build_advisor(fallback, tasks=tasks, place=place, folder=folder)
        if isinstance(other, People) and other.to == options.get("to", ""):
            raise InputError("the fallback asks the same people; name somebody else with `to`", field="advisor.inbox.fallback")
        fallback = other.name
    made: People = _made(_open, "inbox", {"place": place, "other": other, "fallback": fallback}, options)
    return made


def _open(
    place: Path, other: Advisor | None, fallback: str, *, seconds: float | None = None, to: str = "", price_usd: float = 0.0
) -> People:
    terms = Terms.model_validate({"seconds": seconds, "fallback": fallback, "price_usd": price_usd})
    return People(place, terms=terms, to=to, other=other)


def _from_file(name: str, options: Mapping[str, Any], tasks: Sequence[Task], folder: Path) -> Advisor:
    """An advisor of one's own: an object, or a class or function that gives one, with the tasks where it takes `tasks`."""
    found = load_attribute(name, folder)
    if inspect.isclass(found) or not isinstance(found, Advisor):
        if not callable(found):
            raise InputError(f"{name} is neither an advisor nor makes one", field="advisor")
        given = {"tasks": tasks} if "tasks" in inspect.signature(found).parameters else {}
        found = _made(found, name, given, options)
    if not isinstance(found, Advisor):
        raise InputError(f"{name} gives no advisor: it needs `name`, `price` and `async ask(question)`", field="advisor")
    return found
