"""The environment `reasoning`: puzzles of the package `reasoning-gym` (Stojanovski et al. 2025), made by seed and verified.

    tasks = reasoning_tasks(60, seed=0, family=["chain_sum", "mini_sudoku"])
    tasks = reasoning_tasks(60, seed=0, family={"chain_sum": {"min_terms": 2, "max_terms": 3}})

A task holds all that grading needs. There are no tools beside the agent's own: the answer is read from the agent's last text by
`read_answer`, and graded by `reasoning_verify`, which says what differs from the package's own scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import cycle
from random import Random
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from tutelage.environments.reasoning_verify import EXAMPLES, open_family, verify
from tutelage.errors import InputError
from tutelage.records import Episode, Grade, Message, Task

Families = str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]

ONE_LINE = 'Think as long as you need. Then write the answer alone on the last line, after "Answer:".'
SEVERAL_LINES = "Think as long as you need. Then write the answer alone, over as many lines as it needs, between <answer> and </answer>."

_NOT_NEEDED = ("difficulty", "source_dataset", "source_index")
_GARBAGE = "I do not know."
_TRIES = 20  # for each task asked for: small families repeat themselves
_LABEL = re.compile(r"^[\s*_#>`]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[*_]*\s*:[ \t*_]*", re.IGNORECASE | re.MULTILINE)
_TAGS = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_IN_WORDS = re.compile(r"\banswer\s+is:?\s+(\S.*)$", re.IGNORECASE)
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_BOXED = re.compile(r"\A\$*\\boxed\{(.*)\}\$*\Z", re.DOTALL)


def reasoning_tasks(n: int, seed: int, *, family: Families = "chain_sum") -> tuple[Task, ...]:
    """`n` different puzzles in random order, the families in turn.

    family: one name, several, or names with the options of the package's configuration for each. A puzzle whose known answer does not
    pass its own verification, or that silence or "I do not know" would pass, is left out. Raises `InputError` for an unknown family or
    option, and where the families have fewer different puzzles; `MissingExtra` where the package is absent.
    """
    chosen = _chosen(family)
    if not chosen:
        raise InputError("name at least one family", field="family")
    streams = [_puzzles(name, options, Random(f"{seed}/{name}").randrange(2**31), _TRIES * n) for name, options in chosen.items()]
    found: dict[str, Task] = {}
    for stream in cycle(streams):
        if len(found) >= n:
            break
        task = next((task for task in stream if task.text not in found), None)
        if task is None:
            raise InputError(f"only {len(found)} different puzzles were found, and {n} are asked for; widen the options", field="family")
        found[task.text] = task
    tasks = list(found.values())
    Random(seed).shuffle(tasks)
    return tuple(tasks)


def _chosen(family: Families) -> dict[str, dict[str, Any]]:
    if isinstance(family, Mapping):
        return {str(name): dict(options or {}) for name, options in family.items()}
    return {name: {} for name in ([family] if isinstance(family, str) else family)}


def _puzzles(family: str, options: Mapping[str, Any], seed: int, tries: int) -> Iterator[Task]:
    """Tasks of one family that its verifier accepts, as long as there are new ones."""
    puzzles = open_family(family, options, seed=seed, size=tries)
    for number in range(tries):
        with redirect_stdout(StringIO()):  # some generators print
            task = _task(family, options, puzzles[number], f"reasoning-gym:{family}?seed={seed}:{number}")
        if _can_be_graded(task):
            yield task


def _task(family: str, options: Mapping[str, Any], entry: Mapping[str, Any], source: str) -> Task:
    metadata = {key: value for key, value in entry["metadata"].items() if key not in _NOT_NEEDED}
    plain: dict[str, JsonValue] = to_jsonable_python(metadata, fallback=str)
    reference = entry["answer"] if entry["answer"] is not None else _example(family, metadata)
    several = reference is None or "\n" in reference
    question = f"{entry['question'].strip()}\n\n{SEVERAL_LINES if several else ONE_LINE}"
    return Task(
        messages=(Message(role="user", content=question),),
        reference=reference,
        kind=family,
        environment={"family": family, "options": to_jsonable_python(dict(options)), "metadata": plain},
        source=source,
    )


def _example(family: str, metadata: Mapping[str, Any]) -> str | None:
    example = metadata.get(EXAMPLES.get(family, ""))
    if isinstance(example, dict):
        return str(to_jsonable_python(example)).replace("'", '"')
    return None if example is None else str(example).strip()


def _can_be_graded(task: Task) -> bool:
    """A known answer is right, and neither silence nor garbage is."""
    if task.reference is not None and _verify(task, str(task.reference))[0] < 1:
        return False
    return task.reference != "" and _verify(task, _GARBAGE)[0] < 1


def _verify(task: Task, answer: str) -> tuple[float, float | None]:
    about: Any = task.environment
    known = None if about["family"] in EXAMPLES else task.reference
    entry = {"question": task.text, "answer": known, "metadata": about["metadata"]}
    return verify(about["family"], about["options"], answer, entry)


def read_answer(text: str, *, several_lines: bool = False) -> str:
    """The answer in an agent's text.

    1. What follows the last line that begins with `Answer:` (also `Final answer:`, `**Answer:**`), or what stands in the last
       <answer>...</answer>, whichever comes later; the closing tag may be missing. After `Answer:` that is the rest of the line, or the
       lines below where the line is empty or `several_lines` is asked for.
    2. Else the last line, or what follows `answer is` in it. With `several_lines` the whole text.

    Then a code fence, \\boxed{}, backticks and asterisks around it are taken off.
    """
    label, tags = _last(_LABEL.finditer(text)), _last(_TAGS.finditer(text))
    if tags and (label is None or label.start() < tags.end()):
        return _bare(_LABEL.sub("", tags[1]))
    if label:
        first, _, below = text[label.end() :].partition("\n")
        return _bare(f"{first}\n{below}" if several_lines or not first.strip() else first)
    if several_lines:
        return _bare(text)
    line = (text.strip().splitlines() or [""])[-1]
    said = _IN_WORDS.search(line)
    return _bare(said[1] if said else line)


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    found = list(matches)
    return found[-1] if found else None


def _bare(text: str) -> str:
    text = text.strip("\n").rstrip()
    text = text if "\n" in text else text.strip()
    for pattern in (_FENCE, _BOXED):
        if match := pattern.match(text.strip()):
            text = match[1]
    if text.endswith("**") and text.count("**") == 1:  # it began before the label
        text = text[:-2]
    for mark in ("**", "`", "$"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)]
    return text


class ReasoningEnvironment:
    """Grades one puzzle; it has no tools.

    partial: where a family knows true partial credit (`reasoning_verify.PARTIAL`), it counts; False: right or wrong. The package's own
    score stands in the grade's parts as `raw`, where it was asked. show_answer: whether the words of a wrong answer's grade name a right
    one; a learner that tries again could then copy it.
    """

    def __init__(self, partial: bool = True, show_answer: bool = True) -> None:
        self.partial, self.show_answer = partial, show_answer
        self._task: Task | None = None

    def reset(self, task: Task) -> None:
        """Take the puzzle. Raises `InputError` where the task holds none."""
        if not {"family", "options", "metadata"} <= task.environment.keys():
            raise InputError("the task holds no puzzle; make tasks with reasoning_tasks", file=task.source, field="environment")
        self._task = task

    def grade(self, episode: Episode) -> Grade | None:
        """1 where the answer is right; see `reasoning_verify`. None before `reset`."""
        if self._task is None:
            return None
        if not (episode.answer or "").strip():
            return Grade(score=0.0, words=f"there is no answer (the episode ended with: {episode.stop.value})")
        several = not isinstance(self._task.reference, str) or "\n" in self._task.reference
        answer = read_answer(episode.answer or "", several_lines=several)
        score, raw = max((_verify(self._task, form) for form in _forms(answer)), key=lambda pair: pair[0])
        counted = score if self.partial or score == 1 else 0.0
        return Grade(
            score=counted,
            words=_words(counted, answer, self._task.reference if self.show_answer else None),
            parts={} if raw is None else {"raw": raw},
        )


def _forms(answer: str) -> list[str]:
    """The answer, and where it ends in a full stop also without."""
    return [answer, answer.rstrip()[:-1]] if answer.rstrip().endswith(".") else [answer]


def _words(score: float, answer: str, reference: JsonValue) -> str:
    if score == 1:
        return "right"
    expected = "" if reference is None else f"; a right answer is {_short(str(reference))}"
    return f"{'partly right' if score else 'wrong'}: the answer was read as {_short(answer)}{expected}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
