"""What is known in one session: its actions read and change it, and nothing else outlives their calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from tutelage.advice import Advisor, Question
from tutelage.agent import Agent
from tutelage.environment import Environment
from tutelage.executor.texts import readable, words_of
from tutelage.knowledge import Exemplar, Knowledge, Retrieval
from tutelage.memory import Memory
from tutelage.records import Advice, Message, Task
from tutelage.task_formats.choices import choices_of


@dataclass
class Session:
    """One session: a task that is worked on through actions.

    ref: the `Episode.ref` that it becomes. known: S_i, the memory that it began with. enabled: the names of the actions that the model has.
    opening: the environment's words. price: of advice, in units of reward; may_ask: whether any is to be had.

    draft: the answer so far; answer: the one that the session ended with (`done`). reflection: what the model said that it learned.
    writes: what it put into memory. advice: what was answered, at this session's price. cleared: the context begins anew at the next turn.
    confidence: in the draft, before any advice. shown: ids of the entries that were retrieved. trouble: an error that is not the model's to
    see, raised once the action has ended.
    """

    task: Task
    agent: Agent
    known: Knowledge
    retrieval: Retrieval
    ref: str = ""
    advisor: Advisor | None = None
    world: Environment | None = None
    opening: str | None = None
    price: float = 0.0
    may_ask: bool = True
    enabled: frozenset[str] = frozenset()
    draft: str | None = None
    answer: str | None = None
    done: bool = False
    cleared: bool = False
    reflection: str = ""
    writes: list[str] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    asked: bool = False
    confidence: float | None = None
    shown: list[str] = field(default_factory=list)
    trouble: Exception | None = None

    @cached_property
    def memory(self) -> Memory:
        """The memory without the current question's own entries, whatever is searched for."""
        others = tuple(entry for entry in self.known.exemplars if not self._is_own(entry))
        return Memory(Knowledge(exemplars=others, retrieval=self.retrieval))

    def _is_own(self, entry: Exemplar) -> bool:
        return entry.task_id == self.task.id or entry.input_id == self.task.input_id

    def retrieve(self, query: str = "") -> tuple[Exemplar, ...]:
        """The entries that are most like the query (default: the task's text), noted in `shown`."""
        about = Task(messages=(Message(role="user", content=query),), kind=self.task.kind) if query.strip() else self.task
        entries = self.memory.choose(about)
        self.shown += [entry.id for entry in entries if entry.id not in self.shown]
        return entries

    async def ask(self, question: str = "") -> str | None:
        """The expert's words, sought once a session and repeated at no price after that; None where there are none, at no price either.

        Raises as `Advisor.ask` does; its own bugs too, which are not the model's to see.
        """
        if not self.asked and self.may_ask and self.advisor is not None:
            self.asked = True
            try:
                advice = readable(await self.advisor.ask(self._question(question.strip())))
            except Exception as error:
                self.trouble = error
                raise
            if advice is not None:
                self.advice.append(advice.model_copy(update={"price": self.price}))
        return self.advised

    @property
    def advised(self) -> str | None:
        """The advice in words."""
        return words_of(self.advice[0], self.task) if self.advice else None

    def _question(self, text: str) -> Question:
        about = [f"Task: {self.task.text}"] if text and text != self.task.text else []
        drafted = [f"Draft of the answer: {self.draft}"] if self.draft else []
        return Question(
            text=text or self.task.text,
            context="\n".join([*about, *drafted]),
            choices=tuple(choices_of(self.task)),
            agent_version=self.agent.version,
            task_id=self.task.id,
            episode=self.ref,
        )

    def finish(self, answer: str) -> None:
        """End the session with an answer."""
        self.answer, self.done = answer, True
