"""Whether an agent was taught what it is tested on: shared runs of words, whole questions, and canaries.

Overlap of n consecutive words is the usual test (13 words: Brown et al. 2020, arXiv:2005.14165, appendix C). Different here: a short
question counts where all of it stands in one entry. Runs of words that stand in several training tasks are taken for the wording of the
task family and passed over, because tasks made from templates would otherwise all seem to be leaked; so is a reference answer that some
training task has too, such as the name of a class. A question that stands in an entry as a whole is reported even then. A paraphrase or
a translation is not found.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import JsonValue

from tutelage.agent import Agent
from tutelage.history import text_of
from tutelage.knowledge import Exemplar, Knowledge
from tutelage.records import Record, Task
from tutelage.screening import grams, words

N = 13
"""Words in a row that two texts do not share by chance."""
SHORTEST = 5
"""A text of fewer words counts only where it is equal to a whole message: `yes` stands in many entries."""
SEVERAL = 3
"""In so many different training texts, a run of words is the wording of the task family."""
INSTRUCTIONS = "instructions"
"""Stands for the entry's id where the agent's instructions overlap."""

_CANARY = re.compile(r"canary\W{0,3}(?:guid|string|id)?\W{0,3}([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})", re.IGNORECASE)

Gram = tuple[str, ...]


class Overlap(Record):
    """What one entry and one test task share.

    what: the test task's `input` or `reference` stands in the entry in part or as a whole, or a `canary` does. entry_id: an entry's id, or
    `instructions`. task_id, source: of the test task (None: the canary belongs to no test task). words: the longest run that both share.
    share: how much of the task's text is covered by shared runs, from 0 to 1.
    """

    what: Literal["input", "reference", "canary"]
    entry_id: str
    task_id: str | None = None
    source: str | None = None
    words: str = ""
    share: float = 1.0


def find_contamination(
    known: Agent | Knowledge,
    instructions: str,
    test: Sequence[Task],
    n: int = N,
    *,
    common: Sequence[Task] = (),
    canaries: Iterable[str] = (),
) -> tuple[Overlap, ...]:
    """Where knowledge or instructions contain test tasks: for each entry and task the input and the reference; the largest share first.

    known: an agent's instructions are checked too, beside `instructions`. common: training tasks, from which the wording of the task
    family and the answers of classes are known. canaries: strings that must not turn up; those that stand in the test tasks
    (`canary GUID ...`) are found anyway.
    """
    knowledge = known.knowledge if isinstance(known, Agent) else known
    told = "\n".join(part for part in (instructions, known.instructions if isinstance(known, Agent) else "") if part)
    texts = [(INSTRUCTIONS, told)] if told else []
    texts += [(entry.id, text_of(entry)) for entry in knowledge.entries]
    index = _Index(test, n, common)
    found = [overlap for entry_id, text in texts for overlap in index.overlaps(entry_id, words(text))]
    found += [
        overlap
        for entry in knowledge.exemplars
        for overlap in index.equal(entry)
        if not any(other.entry_id == overlap.entry_id and other.task_id == overlap.task_id for other in found)
    ]
    found += _canaries(texts, test, canaries)
    return tuple(sorted(found, key=lambda overlap: (overlap.what != "canary", -overlap.share, overlap.entry_id, overlap.task_id or "")))


def _wording(texts: Iterable[Gram], n: int) -> frozenset[Gram]:
    """Runs of n words that stand in several different texts."""
    counts: Counter[Gram] = Counter()
    for tokens in set(texts):
        counts.update(set(grams(list(tokens), n)))
    return frozenset(gram for gram, count in counts.items() if count >= SEVERAL)


class _Text:
    """The words of a test task's input or reference."""

    def __init__(self, task: Task, what: Literal["input", "reference"], tokens: list[str]) -> None:
        self.task, self.what, self.tokens = task, what, tokens

    def overlap(self, entry_id: str, tokens: Sequence[str], share: float) -> Overlap:
        return Overlap(
            what=self.what, entry_id=entry_id, task_id=self.task.id, source=self.task.source, words=" ".join(tokens), share=round(share, 4)
        )


class _Index:
    """The test tasks by their runs of n words, and those that are shorter by their first words."""

    def __init__(self, test: Sequence[Task], n: int, common: Sequence[Task]) -> None:
        self.n = n
        trained = list(_texts(common))
        answers = {tuple(text.tokens) for text in trained if text.what == "reference"}
        wording = _wording((tuple(text.tokens) for text in trained), n)
        self.by_gram: defaultdict[Gram, list[_Text]] = defaultdict(list)
        self.by_start: defaultdict[Gram, list[_Text]] = defaultdict(list)
        self.by_whole: defaultdict[Gram, list[_Text]] = defaultdict(list)
        for text in _texts(test):
            if text.what == "reference" and tuple(text.tokens) in answers:
                continue
            self.by_whole[tuple(text.tokens)].append(text)
            if len(text.tokens) >= SHORTEST:
                self.by_start[tuple(text.tokens[:SHORTEST])].append(text)
            for gram in set(grams(text.tokens, n)) - wording:
                self.by_gram[gram].append(text)

    def overlaps(self, entry_id: str, tokens: list[str]) -> Iterator[Overlap]:
        shared: dict[int, tuple[_Text, set[Gram]]] = {}
        if self.by_gram:
            for gram in grams(tokens, self.n):
                for text in self.by_gram.get(gram, ()):
                    shared.setdefault(id(text), (text, set()))[1].add(gram)
        whole = {id(text): text for text in self._contained(tokens)}
        for text in whole.values():
            yield text.overlap(entry_id, text.tokens, 1.0)
        for text, common in shared.values():
            if id(text) not in whole:
                yield text.overlap(entry_id, *_covered(text.tokens, common, self.n))

    def _contained(self, tokens: list[str]) -> Iterator[_Text]:
        """The test texts that stand in the entry as a whole."""
        for place, start in enumerate(grams(tokens, SHORTEST)):
            for text in self.by_start.get(start, ()):
                if tokens[place : place + len(text.tokens)] == text.tokens:
                    yield text

    def equal(self, exemplar: Exemplar) -> Iterator[Overlap]:
        """The inputs, however short, that are a user's whole message in the exemplar."""
        for message in exemplar.messages:
            if message.role == "user":
                tokens = words(message.text)
                for text in self.by_whole.get(tuple(tokens), ()) if tokens else ():
                    if text.what == "input":
                        yield text.overlap(exemplar.id, tokens, 1.0)


def _texts(tasks: Sequence[Task]) -> Iterator[_Text]:
    for task in tasks:
        if tokens := words(_input(task)):
            yield _Text(task, "input", tokens)
        for said in _strings(task.reference):
            tokens = words(said)
            if len(tokens) >= SHORTEST:
                yield _Text(task, "reference", tokens)


def _input(task: Task) -> str:
    return "\n".join(message.text for message in task.messages if message.role != "system")


def _strings(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)


def _covered(tokens: list[str], shared: set[Gram], n: int) -> tuple[list[str], float]:
    """The longest run of the tokens that shared runs cover, and which part of all tokens they cover."""
    covered = 0
    best, start, end = (0, 0), 0, 0
    for place, gram in enumerate(grams(tokens, n)):
        if gram not in shared:
            continue
        if place > end:
            start = place
        covered += place + n - max(end, place)
        end = place + n
        best = max(best, (start, end), key=lambda span: span[1] - span[0])
    return tokens[best[0] : best[1]], covered / len(tokens)


def _canaries(texts: Sequence[tuple[str, str]], test: Sequence[Task], canaries: Iterable[str]) -> Iterator[Overlap]:
    """Configured canaries, those of the test tasks, and any other that announces itself, in entries and instructions."""
    owners: dict[str, Task | None] = {canary.strip().lower(): None for canary in canaries if canary.strip()}
    for task in test:
        content = task.model_dump_json().lower()
        for canary in {*_CANARY.findall(content), *(canary for canary in owners if canary in content)}:
            owners[canary] = task
    for entry_id, text in texts:
        lowered = text.lower()
        for canary in sorted({*_CANARY.findall(lowered), *(canary for canary in owners if canary in lowered)}):
            owner = owners.get(canary)
            yield Overlap(what="canary", entry_id=entry_id, task_id=owner and owner.id, source=owner and owner.source, words=canary)


def contamination_lines(overlaps: Sequence[Overlap], shown: int = 5) -> list[str]:
    """The findings in words for a report: a count for each kind, then the `shown` largest. Empty where there is none."""
    lines: list[str] = []
    for what, saying in _SAYINGS.items():
        of_kind = [overlap for overlap in overlaps if overlap.what == what]
        if of_kind:
            tasks, entries = len({overlap.task_id for overlap in of_kind}), len({overlap.entry_id for overlap in of_kind})
            lines.append(saying.format(tasks=_counted(tasks, "test task", "test tasks"), entries=_entries(of_kind, entries)))
            lines += [f"- {_one_line(overlap)}" for overlap in of_kind[:shown]]
            lines += [f"- and {len(of_kind) - shown} more"] if len(of_kind) > shown else []
    return lines


_SAYINGS = {
    "canary": "A canary of test data stands in {entries}: whoever wrote it had the test data at hand.",
    "input": "The questions of {tasks} stand in {entries}, in part or as a whole: scores on them show memory, not learning.",
    "reference": "The reference answers of {tasks} stand in {entries}, in part or as a whole.",
}


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _entries(overlaps: Sequence[Overlap], count: int) -> str:
    told = any(overlap.entry_id == INSTRUCTIONS for overlap in overlaps)
    entries = _counted(count - told, "entry", "entries")
    return entries if not told else f"the instructions and {entries}" if count > 1 else "the instructions"


def _one_line(overlap: Overlap) -> str:
    said = overlap.words if len(overlap.words) <= 90 else f"{overlap.words[:87]}..."
    where = "the instructions" if overlap.entry_id == INSTRUCTIONS else f"entry {overlap.entry_id[:8]}"
    whose = f"{overlap.source or f'task {overlap.task_id}'}, {overlap.share:.0%} of it" if overlap.task_id else "of no test task here"
    return f"{where}: `{said}` ({whose})"
