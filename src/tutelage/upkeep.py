"""Keeping knowledge small and true: near-duplicates become one, what later experience contradicts goes, the rest fits a budget.

Pure functions from snapshot to snapshot. Every change goes through `tutelage.history`, so it is on record and an entry that is pinned or
that a person added or edited is left as it is. Equal input gives equal output, but for the time of the changes.

Evidence is read as odds. A case shown in an episode with score s, on a task of a kind whose usual score is e, gains 2 s (1 - e) of support
and 2 (1 - s) e of contradiction: at e = 1/2 that is s and 1 - s, a failure where everybody fails weighs nothing, and the ratio
supported : contradicted estimates the odds of success with the entry over the usual odds. A share of 1/2 is thus an entry that neither
helps nor harms. Keeping a record per case and dropping those whose record is clearly bad follows IB3 (Aha, Kibler and Albert 1991);
different are the usual score as the yardstick, forgetting, and the Beta posterior in place of two confidence intervals.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from scipy.special import betainc

from tutelage.errors import InputError
from tutelage.history import protected, remove, replace, text_of
from tutelage.knowledge import Entry, Evidence, Exemplar, Insight, Knowledge
from tutelage.memory import estimate_tokens
from tutelage.records import Episode, Experience, Message, Task, ToolCall
from tutelage.retrieval.duplicates import near_duplicates
from tutelage.retrieval.embedders import Embedder

BY = "upkeep"
"""Who did it, in the history."""
UNKNOWN = Evidence()
INSIGHT_SHARE = 0.25
"""The part of an episode's credit that its insights share: they are shown every time, so one episode says little of any of them."""
NEAR_CERTAIN = 0.05
"""The usual score of a kind of task is taken to lie between this and 1 - this, so that no episode weighs nothing at all."""
CERTAINTY = 0.95


def merge_duplicates(
    knowledge: Knowledge, threshold: float = 0.95, embedder: str | Embedder | None = None, *, newer_wins: bool = False, by: str = BY
) -> Knowledge:
    """Near-duplicates become one entry. threshold: cosine of the embedder's vectors, or overlap of words (Jaccard) without one.

    Insights: kept is the one that a person stands behind, else the one with the higher count, else the older; counts and evidence are
    added. Exemplars of one kind with the same solution: the older one goes. With different solutions they contradict each other: one goes
    where the evidence for the other is clearly better (95% sure), or the older at once with newer_wins; otherwise both stay.

    Texts that differ in a number, in a negation or in the order of the same words are never taken for duplicates. Raises `InputError` for a
    threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold must be above 0 and at most 1, not {threshold}", field="threshold")
    knowledge = _merge_insights(knowledge, threshold, embedder, by)
    return _merge_exemplars(knowledge, threshold, embedder, newer_wins, by)


def observe(
    knowledge: Knowledge,
    experiences: Iterable[Experience],
    half_life: float | None = None,
    *,
    expected: Mapping[str, float] | None = None,
) -> Knowledge:
    """The knowledge with its evidence brought up to date by graded episodes, oldest first. An ungraded one changes nothing.

    An episode's credit goes to the shown cases that it followed, whose solution is what it answered: one unit each. Where it followed
    none, one unit is shared by all cases and reflections that were shown. Insights share a quarter of a unit. half_life: after so many
    units of later credit to an entry, what it had counts half; an entry that is not shown forgets nothing. expected: the usual score, by
    task id (see `expected_scores`); 1/2 for the others. Scores are taken to lie in [0, 1].
    """
    check_forgetting(half_life)
    known = {entry.id: entry for entry in knowledge.entries}
    evidence = {id: found for id, found in knowledge.evidence.items() if id in known}
    for experience in experiences:
        if experience.grade.score is None:
            continue
        score = min(max(experience.grade.score, 0.0), 1.0)
        usual = (expected or {}).get(experience.episode.task_id, 0.5)
        for id, weight in _credit(experience.episode, known).items():
            evidence[id] = _observed(evidence.get(id, UNKNOWN), score, weight, usual, half_life)
    return knowledge.model_copy(update={"evidence": evidence})


def expected_scores(tasks: Iterable[Task], experiences: Iterable[Experience]) -> dict[str, float]:
    """Task id -> the usual score of its kind: the mean over the graded experiences, drawn towards 1/2 by one success and one failure."""
    listed = list(tasks)
    kinds = {task.id: task.kind for task in listed}
    scores: defaultdict[str | None, list[float]] = defaultdict(lambda: [0.0, 1.0])
    for experience in experiences:
        task_id, score = experience.episode.task_id, experience.grade.score
        if score is not None and task_id in kinds:
            scores[kinds[task_id]].append(score)
    return {task.id: fmean(scores[task.kind]) for task in listed}


def decay(
    knowledge: Knowledge, floor: float = 0.4, min_observations: float = 2.0, *, certainty: float = CERTAINTY, by: str = BY
) -> Knowledge:
    """Without the entries whose share of support lies below the floor, as far as their evidence can say.

    The share has the posterior Beta(1 + supported, 1 + contradicted); an entry goes where P(share < floor) >= certainty, so that a few
    unlucky episodes do not end it. min_observations: units of (discounted) credit below which an entry is not judged at all. Raises
    `InputError` for a floor or a certainty outside (0, 1).
    """
    check_forgetting(None, floor, certainty)
    for entry in knowledge.entries:
        found = knowledge.evidence.get(entry.id, UNKNOWN)
        if found.supported + found.contradicted < min_observations:
            continue
        if betainc(1 + found.supported, 1 + found.contradicted, floor) >= certainty:
            note = f"contradicted: support {found.supported:.1f}, contradiction {found.contradicted:.1f}"
            knowledge = remove(knowledge, entry.id, by=by, note=note)
    return _without_stale_evidence(knowledge)


def check_forgetting(half_life: float | None, floor: float = 0.5, certainty: float = CERTAINTY) -> None:
    """Raise `InputError` for a half-life that is not above 0, or a share outside (0, 1)."""
    if half_life is not None and not half_life > 0:
        raise InputError(f"the half-life must be above 0, not {half_life}", field="half_life")
    for name, value in (("floor", floor), ("certainty", certainty)):
        if not 0 < value < 1:
            raise InputError(f"{name} must lie between 0 and 1, not {value}", field=name)


def fit_budget(knowledge: Knowledge, tokens: int, count_tokens: Callable[[str], int] = estimate_tokens, *, by: str = BY) -> Knowledge:
    """All entries together within a budget of tokens: what is worth least a token goes first.

    The worth of an entry is its measured effect; where that is unknown, how far its share of support lies from 1/2; where nothing is known,
    0. Of equals, the one with the lower count goes first, then the one that was longest untouched. Raises `InputError` where the entries
    that only a person may remove take more than the budget.
    """
    return _drop_until(knowledge, tokens, count_tokens, _removable(knowledge), by)


def drop_unhelpful(
    knowledge: Knowledge, *, unproven_over: int | None = None, count_tokens: Callable[[str], int] = estimate_tokens, by: str = BY
) -> Knowledge:
    """Without the entries that were shown to harm: the whole interval of their measured worth lies below 0.

    unproven_over: while the whole takes more tokens than this, those that were measured and not shown to help go too, worth least a token
    first (0: all of them). What was not measured stays.
    """
    for entry in knowledge.entries:
        found = knowledge.evidence.get(entry.id, UNKNOWN)
        if found.high is not None and found.high < 0:
            note = f"harmful: {found.worth:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            knowledge = remove(knowledge, entry.id, by=by, note=note)
    knowledge = _without_stale_evidence(knowledge)
    if unproven_over is None:
        return knowledge
    unproven = [entry for entry in _removable(knowledge) if _is_unproven(knowledge.evidence.get(entry.id, UNKNOWN))]
    return _drop_until(knowledge, unproven_over, count_tokens, unproven, by, strict=False)


def count_all(knowledge: Knowledge, count_tokens: Callable[[str], int] = estimate_tokens) -> int:
    """Tokens of all entries together."""
    return sum(count_tokens(text_of(entry)) for entry in knowledge.entries)


# Merging


def _merge_insights(knowledge: Knowledge, threshold: float, embedder: str | Embedder | None, by: str) -> Knowledge:
    insights, mine = knowledge.insights, protected(knowledge)
    for pair in near_duplicates([insight.text for insight in insights], threshold, embedder):
        now = {insight.id: insight for insight in knowledge.insights}  # counts have grown since
        both = [now.get(insights[place].id) for place in (pair.first, pair.second)]
        if both[0] is None or both[1] is None or both[0].id == both[1].id:
            continue
        kept, gone = sorted((both[0], both[1]), key=lambda insight: (insight.id not in mine, -insight.count))
        if gone.id in mine:
            continue
        grown = kept.model_copy(update={"count": kept.count + gone.count})
        knowledge = replace(knowledge, kept.id, grown, by=by, action="agree", note=f"takes in {gone.id}")
        knowledge = _merge(knowledge, gone, kept, f"says the same as {kept.id} ({pair.similarity:.2f})", by)
    return _without_stale_evidence(knowledge)


def _merge_exemplars(knowledge: Knowledge, threshold: float, embedder: str | Embedder | None, newer_wins: bool, by: str) -> Knowledge:
    cases = list({case.id: case for case in knowledge.exemplars}.values())
    for pair in near_duplicates([case.text for case in cases], threshold, embedder):
        older, newer = cases[pair.first], cases[pair.second]
        if older.kind != newer.kind or knowledge.find(older.id) is None or knowledge.find(newer.id) is None:
            continue
        likeness = f"({pair.similarity:.2f})"
        if solution(older) == solution(newer):
            mine = protected(knowledge)
            kept, gone = (older, newer) if older.id in mine and newer.id not in mine else (newer, older)
            knowledge = knowledge if gone.id in mine else _merge(knowledge, gone, kept, f"the same case as {kept.id} {likeness}", by)
        elif newer_wins or _more_supported(knowledge, newer, older):
            knowledge = remove(knowledge, older.id, by=by, note=f"superseded by the newer {newer.id} {likeness}")
        elif _more_supported(knowledge, older, newer):
            knowledge = remove(knowledge, newer.id, by=by, note=f"contradicts {older.id}, which has the better record {likeness}")
    return _without_stale_evidence(knowledge)


def _merge(knowledge: Knowledge, gone: Entry, kept: Entry, note: str, by: str) -> Knowledge:
    """Take `gone` out; what experience said of it counts for `kept`, which is alike."""
    one, other = (knowledge.evidence.get(entry.id, UNKNOWN) for entry in (kept, gone))
    both = one.model_copy(update={"supported": one.supported + other.supported, "contradicted": one.contradicted + other.contradicted})
    merged = remove(knowledge, gone.id, by=by, note=note, action="merge")
    return merged if both == one else merged.model_copy(update={"evidence": {**merged.evidence, kept.id: both}})


def _more_supported(knowledge: Knowledge, one: Entry, other: Entry) -> bool:
    """Whether the share of support of `one` is higher with 95% certainty (normal approximation to the two Beta posteriors)."""
    (mean, variance), (mean_2, variance_2) = (_share(knowledge.evidence.get(entry.id, UNKNOWN)) for entry in (one, other))
    return mean - mean_2 > 1.645 * math.sqrt(variance + variance_2)


def _share(found: Evidence) -> tuple[float, float]:
    """Mean and variance of the posterior share of support."""
    a, b = 1 + found.supported, 1 + found.contradicted
    return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))


def solution(case: Exemplar) -> tuple[str, ...]:
    """What a case ends with, made comparable: its last calls, else its last words, without regard to case and spacing."""
    last = next((message for message in reversed(case.messages) if message.role == "assistant"), Message(role="assistant"))
    return _comparable(last.tool_calls, last.text)


def _answered(episode: Episode) -> tuple[str, ...]:
    steps = list(episode.steps)
    return _comparable(steps[-1].calls if steps else (), episode.answer or "")


def _comparable(calls: Sequence[ToolCall], text: str) -> tuple[str, ...]:
    return tuple(f"{call.name} {_arguments(call)}" for call in calls) or (" ".join(text.casefold().split()),)


def _arguments(call: ToolCall) -> str:
    try:
        return json.dumps(call.parsed(), sort_keys=True)
    except ValueError:
        return call.arguments


# Evidence


def _credit(episode: Episode, known: Mapping[str, Entry]) -> dict[str, float]:
    """Units of credit by entry."""
    shown = [known[id] for id in dict.fromkeys(episode.shown) if id in known]
    insights = [entry for entry in shown if isinstance(entry, Insight)]
    chosen = [entry for entry in shown if not isinstance(entry, Insight)]
    cases = followed(chosen, episode)
    credit = {entry.id: INSIGHT_SHARE / len(insights) for entry in insights}
    return credit | ({case.id: 1.0 for case in cases} if cases else {entry.id: 1 / len(chosen) for entry in chosen})


def followed(shown: Iterable[Entry], episode: Episode) -> list[Exemplar]:
    """The cases whose solution is what the episode answered."""
    answer = _answered(episode)
    return [entry for entry in shown if isinstance(entry, Exemplar) and answer != ("",) and solution(entry) == answer]


def _observed(found: Evidence, score: float, weight: float, usual: float, half_life: float | None) -> Evidence:
    kept = 1.0 if half_life is None else 0.5 ** (weight / half_life)
    usual = min(max(usual, NEAR_CERTAIN), 1 - NEAR_CERTAIN)
    return found.model_copy(
        update={
            "supported": kept * found.supported + weight * 2 * score * (1 - usual),
            "contradicted": kept * found.contradicted + weight * 2 * (1 - score) * usual,
        }
    )


def _without_stale_evidence(knowledge: Knowledge) -> Knowledge:
    known = {entry.id for entry in knowledge.entries}
    if knowledge.evidence.keys() <= known:
        return knowledge
    return knowledge.model_copy(update={"evidence": {id: found for id, found in knowledge.evidence.items() if id in known}})


# The budget


def _removable(knowledge: Knowledge) -> list[Entry]:
    mine = protected(knowledge)
    return [entry for entry in knowledge.entries if entry.id not in mine]


def _is_unproven(found: Evidence) -> bool:
    return found.worth is not None and not (found.low is not None and found.low > 0)


def _drop_until(
    knowledge: Knowledge, tokens: int, count: Callable[[str], int], candidates: Sequence[Entry], by: str, *, strict: bool = True
) -> Knowledge:
    if tokens < 0:
        raise InputError(f"a budget of tokens cannot be negative: {tokens}", field="tokens")
    size = {entry.id: count(text_of(entry)) for entry in knowledge.entries}
    left, droppable = sum(size.values()), sum(size[entry.id] for entry in {entry.id: entry for entry in candidates}.values())
    if strict and left - droppable > tokens:
        raise InputError(
            f"the entries that only a person may remove (pinned, added or edited by one) take {left - droppable} tokens, "
            f"and the budget is {tokens}; unpin or remove some, or raise the budget",
            field="tokens",
        )
    for entry in _least_first(knowledge, candidates, size):
        if left <= tokens:
            break
        left -= size[entry.id]
        knowledge = remove(knowledge, entry.id, by=by, note=f"over the budget of {tokens} tokens")
    return _without_stale_evidence(knowledge)


def _least_first(knowledge: Knowledge, candidates: Sequence[Entry], size: Mapping[str, int]) -> list[Entry]:
    age = _ages(knowledge)

    def rank(entry: Entry) -> tuple[float, int, int]:
        value = _value(knowledge.evidence.get(entry.id, UNKNOWN))
        length = max(size[entry.id], 1)
        per_token = value / length if value > 0 else value * length  # of two that harm, the longer goes first
        return per_token, entry.count if isinstance(entry, Insight) else 1, age[entry.id]

    return sorted({entry.id: entry for entry in candidates}.values(), key=rank)


def _value(found: Evidence) -> float:
    return found.worth if found.worth is not None else _share(found)[0] - 0.5


def _ages(knowledge: Knowledge) -> dict[str, int]:
    """Entry id -> the higher, the later it was last touched; entries that the history does not name are the oldest, in their order."""
    places = {entry.id: place - len(knowledge.entries) for place, entry in enumerate(knowledge.entries)}
    touched = {change.entry_id: place for place, change in enumerate(knowledge.history)}
    return {id: touched.get(id, place) for id, place in places.items()}
