"""What learning from demonstrations (SFT) and from preferences (DPO) share: checks, rows set apart, training beside the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import Field, JsonValue

from tutelage.agent import Agent
from tutelage.environment import environment_tools
from tutelage.errors import InputError
from tutelage.learner import Learner
from tutelage.learners.step_history import as_row, write_history
from tutelage.practice import Practice
from tutelage.records import Message, Record, ToolSpec, content_id
from tutelage.training.adapters import check_fits, save_adapter
from tutelage.training.base import Base, base_of
from tutelage.training.supervised import check_rows, tokenizer_for
from tutelage.training.supervised_job import PLACE_ONLY, HistoryRow, Interrupted, Job, SupervisedSettings, Trained

if TYPE_CHECKING:
    from tutelage.training.chat import TokenRow


class Sourced(Protocol):
    """A row that may say where it comes from."""

    @property
    def source(self) -> str | None:
        """For messages; None: unknown."""
        ...


Row = TypeVar("Row")
Given = TypeVar("Given", bound=Sourced)
Item = TypeVar("Item")
Train = Callable[[Job], Trained]


class Gathering(Record):
    """Where rows come from, and how many are set apart.

    file: of rows in one of TRL's formats, where they come from a file. threshold: the score of a success. attempts: episodes a task,
    sampled at `temperature` (None: as the agent samples). per_task: at most so many episodes or pairs of a task. truncated_episodes: learn
    also from episodes in which a reply was cut off at its limit of tokens. validation: the share of
    the tasks whose rows are not trained on, but choose the best weights; where it comes to less than half a task there are none, and the
    last weights are kept.
    """

    file: str | None = None
    threshold: float = 1.0
    attempts: int = Field(1, ge=1)
    temperature: float | None = Field(None, gt=0)
    per_task: int = Field(1, ge=1)
    truncated_episodes: bool = False
    validation: float = Field(0.1, ge=0, lt=1)


def described(options: SupervisedSettings, file: str | None) -> dict[str, Any]:
    """The options that decide what is learned; a file by its content."""
    own = options.model_dump(mode="json", exclude={"file", *PLACE_ONLY})
    return own if file is None else {**own, "file": file_id(file)}


def file_id(file: str) -> str:
    """The hash of a file's content. Raises `InputError` where it cannot be read."""
    try:
        return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()[:16]
    except OSError as failed:
        raise InputError(f"the rows cannot be read: {failed.strerror}", file=file, field="file") from None


def check_file(source: str, file: str | None) -> None:
    """Raise `InputError` where a file is missing, or given and not read."""
    if (source == "file") != (file is not None):
        raise InputError("name the file of rows" if file is None else "a file is read with `source: file` only", field="file")


async def trainable_base(agent: Agent) -> Base:
    """The base behind the agent's model. Raises `InputError` for a workflow, weights that are not here, and an adapter of another base."""
    if agent.workflow is not None:
        raise InputError(
            "the agents of a workflow cannot be trained through it; train an agent alone and put it into the workflow", field="workflow"
        )
    base = await asyncio.to_thread(base_of, agent.model)  # a GGUF is converted at its first use
    if agent.adapter is not None:
        check_fits(agent.adapter, base)
    return base


def trying(agent: Agent, attempts: int, temperature: float | None) -> Agent:
    """The agent as it makes its attempts. Raises `InputError` where they would all be the same."""
    if temperature is not None and temperature != agent.sampling.temperature:
        agent = agent.but(sampling=agent.sampling.model_copy(update={"temperature": temperature, "seed": None}))
    sampling = agent.sampling
    if attempts > 1 and (sampling.temperature == 0 or sampling.seed is not None):
        raise InputError("the agent would repeat itself at each attempt; set temperature (and no seed of sampling)", field="temperature")
    return agent


async def tools_of(agent: Agent, practice: Practice) -> tuple[list[ToolSpec], list[ToolSpec]]:
    """(the agent's own tools, those of the practice's environment)."""
    own, factory = [item.spec for item in agent.tools], practice.environment
    if factory is None:
        return own, []
    world = factory()
    try:
        return own, [item.spec for item in environment_tools(world)]
    finally:
        closed = close() if (close := getattr(world, "close", None)) else None
        if inspect.isawaitable(closed):
            await closed


def prompt_key(prompt: Sequence[Message]) -> str:
    """What tells the questions of a file's rows apart."""
    return content_id([message.canonical() for message in prompt])


def set_apart(rows: Sequence[tuple[str, Row]], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to validate with), none of a question that the other has; rows come with the key of their question."""
    keys = sorted({key for key, _ in rows})
    held = set(random.Random(f"validation/{seed}").sample(keys, min(round(share * len(keys)), max(0, len(keys) - 1))))
    return [row for key, row in rows if key not in held], [row for key, row in rows if key in held]


@dataclass(frozen=True)
class Form(Generic[Given, Item]):
    """What a learner's rows become. name: of the rows, in facts. render: a row -> what is trained on, given the tokenizer; raises
    `RowError`. sides: the token rows of one such item.
    """

    name: str
    render: Callable[[Any, Given], Sequence[Item]]
    sides: Callable[[Item], Sequence[TokenRow]]


def render(
    form: Form[Given, Item], job: Job, practice: Practice, keyed: Sequence[tuple[str, Given]], options: Any, *, forgiving: bool
) -> tuple[list[Item], list[Item]]:
    """(what to train on, what to validate with), from rows that come with the key of their question.

    options: `Gathering` and the settings of training in one. forgiving: a row that the chat template cannot carry is left out, and the
    practice notes why (one's own episodes); else `RowError` is raised. Raises `InputError`, too, for rows that nothing can be learned from.
    """
    train, held = set_apart(keyed, options.validation, practice.seed)
    items, dropped = _rendered(form, job, train, options, forgiving)
    validation, more = _rendered(form, job, held, options, forgiving)
    why = [*dropped, *more]
    facts: dict[str, JsonValue] = {f"{form.name}_dropped": len(why), f"{form.name}_dropped_because": [*why[:5]]}
    practice.note(**facts)
    return items, validation


def _rendered(
    form: Form[Given, Item], job: Job, rows: Sequence[Given], settings: SupervisedSettings, forgiving: bool
) -> tuple[list[Item], list[str]]:
    """(items, why rows are left out)."""
    from tutelage.training.chat import RowError

    items: list[Item] = []
    sides: list[TokenRow] = []
    names: dict[int, str] = {}
    dropped: list[str] = []
    for row in rows:
        try:
            made = form.render(job.tokenizer, row)
        except RowError as broken:
            if not forgiving:
                raise
            dropped.append(str(broken))
            continue
        own = [side for item in made for side in form.sides(item)]
        names |= {len(sides) + number: row.source or "" for number in range(len(own))}
        items += made
        sides += own
    check_rows(sides, settings, needed=False, names=names)
    return items, dropped


async def learn_weights(
    agent: Agent, practice: Practice, base: Base, learner: Learner, settings: SupervisedSettings, data: str, train: Train
) -> Agent:
    """Train beside the event loop and put the new weights on the agent; they lie in the practice's folder, and so does `history.jsonl`.

    data: hash of the rows. train: given the job. Cancelled (Ctrl-C), training ends after its current step with a checkpoint, from which it
    goes on when it is run again.
    """
    stop = threading.Event()
    tokenizer = await asyncio.to_thread(tokenizer_for, base, settings.special_tokens, agent.adapter)

    def stage(total: int) -> Any:
        return practice.stage(f"{learner.name} steps", total)

    run = content_id([agent.version, learner.described(), data, practice.seed])

    def history(rows: Sequence[HistoryRow]) -> None:
        write_history(practice.folder, run, learner.name, [as_row(row) for row in rows])

    job = Job(base, tokenizer, practice.folder, adapter=agent.adapter, seed=practice.seed, stage=stage, history=history, stop=stop)
    work = asyncio.ensure_future(asyncio.to_thread(train, job))
    try:
        trained = await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        if not work.cancelled() and not isinstance(work.exception(), Interrupted | None):
            practice.note(training_failed=str(work.exception()))
        raise
    facts: dict[str, JsonValue] = {
        "learner": learner.name,
        "settings": learner.described()[learner.name],
        "rows": data,
        "seed": practice.seed,
        "from_adapter": None if agent.adapter is None else agent.adapter.id,
        "trained": trained.facts,
    }
    out = practice.folder / "adapters"
    adapter = await asyncio.to_thread(save_adapter, trained.model, base, out, facts=facts, tokenizer=trained.tokenizer)
    trained.clear()
    practice.note(**trained.facts)
    return agent.but(adapter=adapter)
