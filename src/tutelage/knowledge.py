"""What an agent knows without weights, as one frozen snapshot with an id."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import model_validator

from tutelage.records import Message, Record, content_id

Choose = Literal["fixed", "text", "meaning", "fused"]
Order = Literal["best_last", "best_first", "as_stored"]


class Exemplar(Record):
    """One solved case. `text` is what retrieval compares; `messages` are shown as a conversation that ends with the solution.

    `task_id` and `input_id` keep a task from being shown its own case; `origin` says whether the solution is the task's reference answer,
    an episode of the agent that was graded a success, or what an agent `noted` in a session, which nobody graded.
    """

    task_id: str
    input_id: str
    text: str
    messages: tuple[Message, ...]
    kind: str | None = None
    origin: Literal["reference", "success", "noted"] = "reference"

    @cached_property
    def id(self) -> str:
        """Hash of the content."""
        return content_id(self.canonical())


class Retrieval(Record):
    """How exemplars are chosen at run time.

    choose: `fixed` shows the stored exemplars as they are; `text` is BM25, `meaning` is embedding similarity, `fused` joins both by
    reciprocal rank. k: how many. order: `best_last` puts the most similar next to the question. token_budget: at most so many tokens of
    exemplars (counted as characters / 4 where no tokenizer is known). max_similarity: of two exemplars more alike than this cosine
    (`meaning`, `fused`) or word overlap (`text`) only the better is shown. same_kind: only exemplars of the task's kind.
    """

    choose: Choose = "fixed"
    k: int = 6
    order: Order = "best_last"
    token_budget: int | None = None
    max_similarity: float = 0.98
    same_kind: bool = False
    embedder: str = "wordllama"


class Insight(Record):
    """A rule drawn from experience (ExpeL), shown with every task. `count` is its importance: it rises when experience agrees.

    `id` names the rule through all its edits: the hash of its first text.
    """

    text: str
    count: int = 2
    id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, data: Any) -> Any:
        return (
            {**data, "id": data.get("id") or content_id(["insight", data["text"]])} if isinstance(data, dict) and "text" in data else data
        )


class Reflection(Record):
    """What the agent wrote after a failed attempt at a task, for its next attempt (Reflexion).

    text: the reflection. trajectory: the shortened attempt itself, where a strategy shows it. Either may be empty. `task_text` is what
    similar tasks are found by.
    """

    task_id: str
    input_id: str
    task_text: str
    attempt: int
    text: str = ""
    trajectory: str = ""
    kind: str | None = None
    id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("id"):
            return data
        return {**data, "id": content_id(["reflection", *(data.get(key) for key in ("input_id", "attempt", "text", "trajectory"))])}


class Recall(Record):
    """Which reflections are shown with a task: the last `omega` of its own, or, where it has none, those of the `carry` most similar tasks.

    by: how similar tasks are found. omega follows Reflexion: 1 for programming, 3 otherwise.
    """

    omega: int = 3
    carry: int = 0
    by: Literal["text", "meaning", "fused"] = "meaning"


Entry = Exemplar | Insight | Reflection
"""One thing that an agent knows; each has an `id`."""

Action = Literal["add", "agree", "edit", "promote", "demote", "pin", "unpin", "remove", "merge", "hold", "release"]


class Change(Record):
    """One line of the history: who did what to which entry, when, and because of which episodes.

    by: `person` or `person:NAME`, else a learner or another part of the program. before: the entry as it was (None where it was not
    there) and place: its position among its kind, so that any earlier snapshot can be had back. episodes: `Episode.ref` of what it was
    drawn from. entry_id: the entry's id after the change.
    """

    when: datetime
    by: str
    action: Action
    entry_id: str
    before: Entry | None = None
    place: int | None = None
    episodes: tuple[str, ...] = ()
    note: str = ""

    @property
    def by_person(self) -> bool:
        """Whether a person did it."""
        return self.by.partition(":")[0] == "person"


class Held(Record):
    """An entry that is not shown until a person releases it, and why."""

    entry: Entry
    reasons: tuple[str, ...]


class Evidence(Record):
    """What experience says of an entry: weighted numbers of good and bad episodes in which it was shown, and its measured worth.

    supported, contradicted: sums of weights, so that older episodes can count less. worth: mean change of the score when it is shown
    (None: not measured), with `low` and `high` as its 95% interval over `n` episodes.
    """

    supported: float = 0.0
    contradicted: float = 0.0
    worth: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Knowledge(Record):
    """Exemplars, insights and reflections, with their history, as one snapshot.

    insights: most important first. pinned: ids of entries that nothing but a person removes or changes. held: entries waiting for a
    person. evidence: by entry id. history: oldest first; snapshot number n is what the first n changes made (see `tutelage.history`).

    The id is the hash of what may be shown; history, evidence and what is held do not enter it.
    """

    exemplars: tuple[Exemplar, ...] = ()
    retrieval: Retrieval = Retrieval()
    insights: tuple[Insight, ...] = ()
    reflections: tuple[Reflection, ...] = ()
    recall: Recall = Recall()
    pinned: frozenset[str] = frozenset()
    held: tuple[Held, ...] = ()
    evidence: Mapping[str, Evidence] = {}
    history: tuple[Change, ...] = ()

    @cached_property
    def id(self) -> str:
        """Hash of what may be shown with a task."""
        content: list[Any] = [self.retrieval.canonical(), [exemplar.id for exemplar in self.exemplars]]
        if self.insights or self.reflections:  # so that knowledge of exemplars alone keeps the id that it always had
            shown = [reflection.canonical() for reflection in self.reflections]
            content += [[insight.text for insight in self.insights], shown, self.recall.canonical()]
        return content_id(content)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that may be shown: exemplars, insights, reflections."""
        return (*self.exemplars, *self.insights, *self.reflections)

    def find(self, entry_id: str) -> Entry | None:
        """The entry of that id; None where there is none."""
        return next((entry for entry in self.entries if entry.id == entry_id), None)


EMPTY = Knowledge()
"""Knowing nothing."""
