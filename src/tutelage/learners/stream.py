"""Learning from a stream: the training tasks are worked on once, in their order, and each wave of them teaches the next.

Act, be graded, take in what was solved, judge what was shown by how it went, forget what no longer holds: a memory for a world that
changes. Case-based reasoning (retrieve, act, store the outcome), with three ways of forgetting:

- each entry is judged by the episodes in which it was shown (see `tutelage.upkeep`);
- an older case goes where a newer near-duplicate repeats or contradicts it;
- where the scores of a kind of task, or of the episodes that followed cases with one and the same solution, fall by more than chance
  explains, the world has changed: the cases of that kind, or with that solution, from before the fall go, but for those that have led to a
  success since. The fall is found as in ADWIN (Bifet and Gavalda 2007): of all cuts of the scores into earlier and later waves, the one
  whose means differ most above Hoeffding's bound. Different: only falls count, cuts lie between waves, and what is cut off is cases and
  not only scores.

Without decay it is a memory that only grows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.history import add, protected, remove
from tutelage.knowledge import Exemplar, Knowledge, Retrieval
from tutelage.learner import Need
from tutelage.learners.exemplars import reference_exemplars, success_exemplar
from tutelage.practice import Practice
from tutelage.records import Experience, Task
from tutelage.upkeep import check_forgetting, decay, expected_scores, followed, merge_duplicates, observe, solution

DOUBT = 0.05
"""The chance to see a fall where there is none, over all cuts of one group's scores."""

Group = tuple[str | None, ...]
"""The cases that a fall is about: those of a kind (`("kind", "billing")`), or those with a solution (`("solution", "north")`)."""


class Stream:
    """Learn online over the training tasks, in waves.

    choose, k, and further options of `Retrieval`: which cases are shown. source: what becomes a case: the agent's own successes
    (`success`), or also the reference answer after a failure (`both`). wave: tasks a wave; what one wave taught is shown from the next on.

    decay: forget, in the three ways above. half_life: after so many units of credit evidence counts half. floor: the share of support below
    which an entry goes. window: keep only so many of the newest cases. threshold: the score of a success. Near-duplicates are cases more
    alike than `max_similarity`, as in retrieval.
    """

    name = "stream"
    needs = frozenset({Need.GRADES})

    def __init__(
        self,
        choose: Literal["text", "meaning", "fused"] = "text",
        k: int = 3,
        *,
        source: Literal["success", "both"] = "both",
        wave: int = 8,
        decay: bool = True,
        half_life: float = 4.0,
        floor: float = 0.4,
        window: int | None = None,
        threshold: float = 1.0,
        **retrieval: Any,
    ) -> None:
        _check(choose, source, k, wave, window)
        check_forgetting(half_life, floor)
        self.retrieval = Retrieval(choose=choose, k=k, **retrieval)
        self.source, self.wave, self.decay, self.threshold = source, wave, decay, threshold
        self.half_life, self.floor, self.window = half_life, floor, window

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        names = ("source", "wave", "decay", "half_life", "floor", "window", "threshold")
        return {self.name: self.retrieval.model_dump(mode="json") | {name: getattr(self, name) for name in names}}

    def forecast_calls(self, n_tasks: int) -> int:
        """One episode a task."""
        return n_tasks

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with what it knew at the end of the stream.

        Notes the mean score of each wave as `stream_scores` (None: not graded), and in which waves the world was seen to change.
        """
        knowledge = agent.knowledge.model_copy(update={"retrieval": self.retrieval})
        past = _Past()
        scores: list[float | None] = []
        for start in range(0, len(practice.tasks), self.wave):
            wave = practice.tasks[start : start + self.wave]
            experiences = await practice.collect(agent.but(knowledge=knowledge), wave)
            scores.append(_mean(experiences))
            knowledge = self._learn_wave(knowledge, wave, experiences, past)
        practice.note(stream_scores=list(scores), stream_wave=self.wave, stream_changes=list(past.changes))
        return agent.but(knowledge=knowledge)

    def _learn_wave(self, knowledge: Knowledge, wave: Sequence[Task], experiences: Sequence[Experience], past: _Past) -> Knowledge:
        """What the wave teaches: first the verdict on what was known, then what is new."""
        if self.decay:
            usual = expected_scores([*past.tasks, *wave], past.experiences)
            knowledge = decay(observe(knowledge, experiences, self.half_life, expected=usual), self.floor, by=self.name)
            past.take(knowledge, wave, experiences, self.threshold)
            knowledge = _without_outdated(knowledge, past, self.name)
        for task, experience in zip(wave, experiences, strict=True):
            knowledge = add(knowledge, self._cases(task, experience), by=self.name, episodes=[experience.episode.ref])
        if self.decay:
            embedder = None if self.retrieval.choose == "text" else self.retrieval.embedder
            knowledge = merge_duplicates(knowledge, self.retrieval.max_similarity, embedder, newer_wins=True, by=self.name)
            past.remember(knowledge)
        return knowledge if self.window is None else _newest(knowledge, self.window, self.name)

    def _cases(self, task: Task, experience: Experience) -> list[Exemplar]:
        score = experience.grade.score
        if score is None:
            return []
        if score >= self.threshold:
            return [success_exemplar(task, experience.episode)]
        return reference_exemplars([task]) if self.source == "both" else []


@dataclass
class _Past:
    """What a stream remembers of its own course. Waves are numbered from 0; what was known before is from wave -1.

    scores: by group of cases and wave. learned: when a case came in. right: when it last led to a success.
    """

    wave: int = -1
    tasks: list[Task] = field(default_factory=list)
    experiences: list[Experience] = field(default_factory=list)
    scores: defaultdict[Group, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    learned: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    changes: list[int] = field(default_factory=list)

    def take(self, knowledge: Knowledge, wave: Sequence[Task], experiences: Sequence[Experience], threshold: float) -> None:
        """Note the scores by group, and which cases have just led to a success."""
        self.wave += 1
        self.tasks += wave
        self.experiences += experiences
        for task, experience in zip(wave, experiences, strict=True):
            score, shown = experience.grade.score, frozenset(experience.episode.shown)
            if score is None:
                continue
            cases = followed((case for case in knowledge.exemplars if case.id in shown), experience.episode)
            for group in dict.fromkeys([("kind", task.kind), *(("solution", *solution(case)) for case in cases)]):
                self.scores[group].setdefault(self.wave, []).append(min(max(score, 0.0), 1.0))
            if score >= threshold:
                self.right.update({case.id: self.wave for case in cases})

    def remember(self, knowledge: Knowledge) -> None:
        """Note in which wave the cases came in."""
        self.learned = {case.id: self.learned.get(case.id, self.wave) for case in knowledge.exemplars}

    def falls(self) -> Iterator[tuple[Group, int]]:
        """The groups whose scores have fallen, each with the first wave after the fall; the scores before it are forgotten."""
        for group, by_wave in list(self.scores.items()):
            numbers = list(by_wave)
            cut = fall_began(list(by_wave.values()))
            if cut is not None:
                self.scores[group] = {number: by_wave[number] for number in numbers[cut:]}
                self.changes.append(numbers[cut])
                yield group, numbers[cut]


def fall_began(waves: Sequence[Sequence[float]], doubt: float = DOUBT) -> int | None:
    """The first wave after a fall of the mean that chance does not explain; None where there was none. Scores in [0, 1], no empty wave."""
    n, total = sum(len(wave) for wave in waves), sum(map(sum, waves))
    best, found = 0.0, None
    n_before, sum_before = 0, 0.0
    for cut in range(1, len(waves)):
        n_before, sum_before = n_before + len(waves[cut - 1]), sum_before + sum(waves[cut - 1])
        n_after = n - n_before
        bound = math.sqrt((1 / n_before + 1 / n_after) / 2 * math.log(4 * n / doubt))
        above = sum_before / n_before - (total - sum_before) / n_after - bound
        if above > best:
            best, found = above, cut
    return found


def _without_outdated(knowledge: Knowledge, past: _Past, by: str) -> Knowledge:
    """Without the cases from before a fall, of its group, that have not led to a success since."""
    for group, since in past.falls():
        for case in knowledge.exemplars:
            old = past.learned.get(case.id, -1) < since and past.right.get(case.id, -1) < since
            if old and group in (("kind", case.kind), ("solution", *solution(case))):
                knowledge = remove(knowledge, case.id, by=by, note=f"from before the scores fell in wave {since}")
    return knowledge


def _newest(knowledge: Knowledge, window: int, by: str) -> Knowledge:
    """At most `window` of the cases that no person stands behind, the newest."""
    mine = protected(knowledge)
    learned = [case.id for case in knowledge.exemplars if case.id not in mine]
    for id in learned[: max(len(learned) - window, 0)]:
        knowledge = remove(knowledge, id, by=by, note=f"not among the newest {window}")
    return knowledge


def _mean(experiences: Sequence[Experience]) -> float | None:
    scores = [experience.grade.score for experience in experiences]
    graded = [score for score in scores if score is not None]
    return fmean(graded) if graded else None


def _check(choose: str, source: str, k: int, wave: int, window: int | None) -> None:
    if choose not in ("text", "meaning", "fused"):
        hint = " (fixed cases would always be the oldest)" if choose == "fixed" else ""
        raise InputError(f"`{choose}` is no way to choose here{hint}; use text, meaning or fused", field="learners.stream.choose")
    if source not in ("success", "both"):
        raise InputError(f"`{source}` is not a source; use success or both", field="learners.stream.source")
    for name, value in (("k", k), ("wave", wave), ("window", window)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}", field=f"learners.stream.{name}")
