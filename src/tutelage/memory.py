"""The memory: which solved cases and which reflections are shown with a task. It may grow while the agent works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tutelage.knowledge import Exemplar, Insight, Knowledge, Recall, Reflection, Retrieval
from tutelage.records import Task

if TYPE_CHECKING:
    from tutelage.retrieval.index import By, Index

WIDTHS = (64, 512, 4_096)
"""So many of the nearest are considered (at least 4 k); the next width only where near-duplicates or own cases leave fewer than k."""


def estimate_tokens(text: str) -> int:
    """Characters / 4, rounded up."""
    return -(-len(text) // 4)


class Memory:
    """Chooses exemplars over a Knowledge snapshot, as its `Retrieval` says, and takes new ones in.

    count_tokens: tokens of a text, for the token budget. Safe to use from several threads and tasks at once: an exemplar is in once, and
    a choice is exact over everything whose `add` had returned when it began.
    """

    def __init__(self, knowledge: Knowledge, *, count_tokens: Callable[[str], int] = estimate_tokens) -> None:
        self.retrieval: Retrieval = knowledge.retrieval
        self._knowledge = knowledge
        self._by_input: dict[str, list[Reflection]] = {}
        for reflection in knowledge.reflections:
            self._by_input.setdefault(reflection.input_id, []).append(reflection)
        self._similar_inputs: Index | None = None
        self._count_tokens = count_tokens
        self._exemplars = {exemplar.id: exemplar for exemplar in knowledge.exemplars}
        self._places = {id: place for place, id in enumerate(self._exemplars)}
        self._index: Index | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._exemplars)

    def add(self, exemplar: Exemplar) -> bool:
        """Take an exemplar in; False where it is already there."""
        with self._lock:
            if exemplar.id in self._exemplars:
                return False
            self._exemplars[exemplar.id] = exemplar
            self._places[exemplar.id] = len(self._places)
            if self._index is not None:
                _index_one(self._index, exemplar)
            return True

    def snapshot(self) -> Knowledge:
        """Everything that it holds now, in the order of adding."""
        with self._lock:
            return self._knowledge.model_copy(update={"exemplars": tuple(self._exemplars.values())})

    @property
    def insights(self) -> tuple[Insight, ...]:
        """The rules, shown with every task."""
        return self._knowledge.insights

    @property
    def recall_settings(self) -> Recall:
        """How reflections are recalled."""
        return self._knowledge.recall

    def recall(self, task: Task) -> tuple[Reflection, ...]:
        """The reflections to show: the last `omega` on this very task and the pinned ones (oldest first), or else the last one each on the
        `carry` most similar tasks (most similar last).

        Raises as `choose` does.
        """
        if not self._by_input:  # before the task's id is worked out, which takes a tenth of a whole episode's own time
            return ()
        recall = self._knowledge.recall
        own = self._by_input.get(task.input_id, [])
        if own:
            last = own[-recall.omega :] if recall.omega > 0 else []
            return tuple(item for item in own if item in last or item.id in self._knowledge.pinned)
        if recall.carry <= 0:
            return ()
        hits = self._indexed_inputs().search(task.text, recall.carry, recall.by)
        return tuple(self._by_input[hit.id][-1] for hit in reversed(hits))

    def _indexed_inputs(self) -> Index:
        """The texts of the tasks that were reflected on."""
        if self._similar_inputs is None:
            from tutelage.retrieval.index import Index

            with self._lock:
                if self._similar_inputs is None:
                    index = Index(self.retrieval.embedder)
                    for input_id, reflections in self._by_input.items():
                        index.add(input_id, reflections[-1].task_text, None)
                    self._similar_inputs = index
        return self._similar_inputs

    def choose(self, task: Task) -> tuple[Exemplar, ...]:
        """The exemplars to show with a task, in the order to show them. Never the task's own case (same task, or same question).

        `fixed`: the first k stored ones, as stored. Otherwise the k most similar to the task, passing over near-duplicates and what does
        not fit into the token budget any more. With same_kind a task of a kind is shown its kind only; a task without a kind is shown all.

        Raises `InputError` for an unknown embedder and `MissingExtra` where its package is absent.
        """
        if self.retrieval.choose == "fixed":
            return self._fixed(task)
        if not self._exemplars or self.retrieval.k <= 0:
            return ()
        best = self._similar(task, self.retrieval.choose)
        if self.retrieval.order == "as_stored":
            return tuple(sorted(best, key=lambda exemplar: self._places[exemplar.id]))
        return tuple(best if self.retrieval.order == "best_first" else reversed(best))

    def _fixed(self, task: Task) -> tuple[Exemplar, ...]:
        budget = _Budget(self.retrieval.token_budget, self._count_tokens)
        chosen: list[Exemplar] = []
        with self._lock:
            for exemplar in self._exemplars.values():
                if len(chosen) >= self.retrieval.k:
                    break
                if self._may_show(exemplar, task) and budget.takes(exemplar):
                    chosen.append(exemplar)
        return tuple(chosen)

    def _similar(self, task: Task, by: By) -> list[Exemplar]:
        """The chosen, best first."""
        from tutelage.retrieval.ranking import diverse

        index, retrieval = self._indexed(), self.retrieval
        kind = task.kind if retrieval.same_kind else None
        chosen: list[Exemplar] = []
        for width in _widths(retrieval.k):
            hits = index.search(task.text, width, by, kind=kind)
            near = [hit for hit in hits if self._may_show(self._exemplars[hit.id], task)]
            budget = _Budget(retrieval.token_budget, self._count_tokens)
            taken = diverse(
                near,
                retrieval.k,
                lambda one, other: index.similarity(one, other, by),
                max_similarity=retrieval.max_similarity,
                accept=lambda hit, budget=budget: budget.takes(self._exemplars[hit.id]),  # type: ignore[misc]
            )
            chosen = [self._exemplars[hit.id] for hit in taken]
            if len(chosen) == retrieval.k or len(hits) < width or budget.refused:
                break
        return chosen

    def _may_show(self, exemplar: Exemplar, task: Task) -> bool:
        own_case = exemplar.task_id == task.id or exemplar.input_id == task.input_id
        other_kind = self.retrieval.same_kind and task.kind is not None and exemplar.kind != task.kind
        return not own_case and not other_kind

    def _indexed(self) -> Index:
        """The index, built at first use: choosing fixed exemplars needs no numpy."""
        if self._index is None:
            from tutelage.retrieval.index import Index

            with self._lock:
                if self._index is None:
                    index = Index(self.retrieval.embedder)
                    for exemplar in self._exemplars.values():
                        _index_one(index, exemplar)
                    self._index = index
        return self._index


def _index_one(index: Index, exemplar: Exemplar) -> None:
    index.add(exemplar.id, exemplar.text, exemplar.kind)


def _widths(k: int) -> Sequence[int]:
    return [max(width, 4 * k) for width in WIDTHS]


class _Budget:
    """What is left of the tokens, and whether anything was refused."""

    def __init__(self, tokens: int | None, count: Callable[[str], int]) -> None:
        self._left, self._count = tokens, count
        self.refused = False

    def takes(self, exemplar: Exemplar) -> bool:
        """Whether the exemplar fits; if so, its tokens are spent."""
        if self._left is None:
            return True
        tokens = self._count("\n".join(_shown(exemplar)))
        if tokens > self._left:
            self.refused = True
            return False
        self._left -= tokens
        return True


def _shown(exemplar: Exemplar) -> Iterator[str]:
    for message in exemplar.messages:
        yield message.text
        for call in message.tool_calls:
            yield f"{call.name} {call.arguments}"
