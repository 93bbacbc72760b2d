"""Pairs to prefer, as a judge sees them: attempts at one task, compared two by two, where no rule can grade them.

A calibrated judge gives a pair only where it is sure enough to agree with people; what it abstains from, calls a tie, or fails on is no
pair. The judge's confidence is the pair's weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tutelage.errors import GraderError, InputError
from tutelage.experience.views import Preference, by_task, preferred_rows
from tutelage.graders.calibrated_judge import CalibratedJudge, load_calibrated
from tutelage.graders.judge_case import case_of
from tutelage.graders.judge_confidence import Opinion
from tutelage.graders.judge_file import make_judge
from tutelage.graders.judge_pairwise import PairwiseJudge, preferred
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Completion, Episode, Experience, Message, Sampling, StopReason, Task, ToolSpec, content_id
from tutelage.training.rows import PreferenceRow

PairJudge = PairwiseJudge | CalibratedJudge
Tools = Callable[[str], Sequence[ToolSpec]]
"""Task id -> the tools that a row of it shows, as a model takes them natively."""
_DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class Judged:
    """Rows with the input id of their task. counts: comparisons that gave a pair, a tie, an abstention, a failure."""

    rows: list[tuple[str, PreferenceRow]]
    counts: Mapping[str, int]

    @property
    def facts(self) -> dict[str, JsonValue]:
        """For the report."""
        return {f"judge_{name}": count for name, count in self.counts.items()}


def pair_judge(spec: Any, folder: str | Path = "") -> PairJudge:
    """A judge of pairs from what a study file says: the file that calibrated one, or the keys of one: {model: ..., criteria: ...}.

    A judge is taken as it is. Raises `InputError` for a judge of single answers, and for what makes none.
    """
    judge: Any = spec
    if isinstance(spec, str | Path):
        judge = load_calibrated(Path(folder) / spec)
    elif isinstance(spec, Mapping):
        try:
            judge = make_judge({"kind": "pairs", **spec})
        except ValidationError as wrong:
            first = wrong.errors()[0]
            raise InputError(first["msg"], field=".".join(["judge", *map(str, first["loc"])])) from None
    if isinstance(judge, PairwiseJudge) or (isinstance(judge, CalibratedJudge) and isinstance(judge.judge, PairwiseJudge)):
        return judge
    raise InputError("a judge that compares two answers is needed (kind: pairs), and this is none", field="judge")


async def judged_pairs(
    experiences: Iterable[Experience],
    practice: Practice,
    judge: PairJudge,
    *,
    per_task: int = 2,
    truncated: bool = False,
    tools: Tools = lambda task_id: (),
) -> Judged:
    """Up to `per_task` pairs of each task; two attempts are compared if they answer one prompt in different words.

    Which are compared first is drawn by a hash of the practice's seed and the episodes. The judge's calls are within the practice's budget
    and kept. truncated: also episodes in which a reply was cut off. Raises `GraderError` where every comparison fails, and what the model
    raises.
    """
    asking = judge.bind(lambda which: _Metered(which, practice))
    known = {task.id: task for task in practice.tasks}
    usable = [one for one in experiences if _usable(one.episode, truncated)]
    rows: list[tuple[str, PreferenceRow]] = []
    counts: Counter[str] = Counter(pairs=0, ties=0, abstained=0, failed=0)
    found = by_task(usable)
    with practice.stage("judging pairs", len(found)) as stage:
        for task_id, tried in found.items():
            task, own = known[task_id], 0
            for one, other in _drawn(tried, practice.seed):
                row = await _compare(asking, task, (one, other), tools(task_id), counts)
                if row is not None:
                    rows.append((task.input_id, row))
                    own += 1
                if own >= per_task:
                    break
            stage.advance()
    if counts["failed"] and counts["failed"] == counts.total():
        raise GraderError(f"the judge failed on all of {counts['failed']} pairs")
    return Judged(rows, dict(counts))


async def _compare(
    judge: PairJudge, task: Task, pair: tuple[Experience, Experience], tools: Sequence[ToolSpec], counts: Counter[str]
) -> PreferenceRow | None:
    one, other = pair
    try:
        opinion = await _opinion(judge, task, one.episode, other.episode)
    except GraderError:
        counts["failed"] += 1
        return None
    if opinion is None:
        counts["abstained"] += 1
        return None
    better = preferred(opinion, one.episode, other.episode)
    if better is None:
        counts["ties"] += 1
        return None
    counts["pairs"] += 1
    given = Preference(winner=better.winner, loser=better.loser, weight=better.weight)
    return preferred_rows(pair, [given], tools=tools)[0]


async def _opinion(judge: PairJudge, task: Task, one: Episode, other: Episode) -> Opinion | None:
    """None where a calibrated judge abstains."""
    if isinstance(judge, PairwiseJudge):
        return await judge.prefer(task, one, other)
    opinion = await judge.opinion(case_of(task, one, other, max_chars=judge.judge.options.max_chars))
    return opinion if opinion is not None and judge.accepts(opinion) else None


def _usable(episode: Episode, truncated: bool) -> bool:
    cut = any(step.completion.finish == "length" for step in episode.steps)
    return episode.stop is not StopReason.MODEL_ERROR and (truncated or not cut)


def _drawn(tried: Sequence[Experience], seed: int) -> Iterator[tuple[Experience, Experience]]:
    """The pairs that can be learned from, in the order of a hash; which one of a pair comes first is drawn too."""
    pairs = sorted(combinations(tried, 2), key=lambda pair: content_id([seed, *(x.episode.ref for x in pair)]))
    for one, other in pairs:
        if _comparable(one, other):
            yield (other, one) if int(content_id([seed, other.episode.ref, one.episode.ref]), 16) & 1 else (one, other)


def _comparable(one: Experience, other: Experience) -> bool:
    """Whether the two answer one prompt in different words."""
    try:
        return bool(preferred_rows([one, other], [Preference(winner=one.episode.ref, loser=other.episode.ref)]))
    except InputError:
        return False


class _Metered:
    """A judge's model whose calls are within a practice's budget, kept, and part of what learning costs."""

    def __init__(self, which: str | Model, practice: Practice) -> None:
        self._which, self._practice = which, practice
        model = load_model(which)
        self.name, self.native_tools, self.price = model.name, model.native_tools, model.price

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = _DEFAULT_SAMPLING
    ) -> Completion:
        """One reply. Raises as `Practice.ask` does."""
        return await self._practice.ask(self._which, messages, sampling=sampling)
