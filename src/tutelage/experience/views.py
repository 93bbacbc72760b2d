"""Pure views over experiences. An experience that is not graded is never counted as a success or as a failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.experience.conversations import bare_context, native_specs, segment_turns
from tutelage.prompt import build_messages
from tutelage.records import Episode, Experience, Message, Record, Segment, StopReason, Task, ToolSpec
from tutelage.tasks import reference_messages
from tutelage.tool_protocol import render_message
from tutelage.training.rows import PreferenceRow, SFTRow


def successes(experiences: Iterable[Experience], threshold: float = 1.0) -> list[Experience]:
    """Those scored `threshold` or more, in their order."""
    return [x for x in experiences if x.grade.score is not None and x.grade.score >= threshold]


def by_task(experiences: Iterable[Experience]) -> dict[str, list[Experience]]:
    """Task id -> its experiences, both in the order of first appearance."""
    groups: dict[str, list[Experience]] = {}
    for experience in experiences:
        groups.setdefault(experience.episode.task_id, []).append(experience)
    return groups


def best_per_task(experiences: Iterable[Experience]) -> dict[str, Experience]:
    """Task id -> its experience of the highest score, the first of equals; tasks without any score are left out."""
    best: dict[str, Experience] = {}
    for experience in experiences:
        score = experience.grade.score
        held = best.get(experience.episode.task_id)
        if score is not None and (held is None or held.grade.score is None or score > held.grade.score):
            best[experience.episode.task_id] = experience
    return best


def groups(experiences: Iterable[Experience]) -> dict[str, list[Experience]]:
    """Task id -> its graded experiences, for advantages within a task; tasks without any are left out."""
    return by_task(x for x in experiences if x.grade.score is not None and x.episode.stop is not StopReason.MODEL_ERROR)


def sft_rows(
    experiences: Iterable[Experience],
    tasks: Iterable[Task],
    *,
    threshold: float = 1.0,
    per_task: int = 1,
    tools: Sequence[ToolSpec] = (),
    native_tools: bool = False,
    bare: Agent | None = None,
    truncated: bool = False,
) -> list[SFTRow]:
    """Successful episodes as demonstrations, one row a segment: the context as the model saw it, then its turns with what came back.

    A turn whose call failed stays, since what follows answers it, and bears no loss. per_task: at most so many episodes a task, the best
    scored first; episodes that say the same count once. tools, native_tools: for a model that takes tools itself, those of its agent and
    environment (a task's own are added); where the prompt describes them, the context holds them already. bare: the agent that made the
    episodes; its exemplars, insights and reflections are left out of the prompt, so that they are learned by heart. truncated: learn
    also from episodes in which a reply was cut off at its limit. Raises `InputError` as `bare_context` does, and for an unknown task.
    """
    known = {task.id: task for task in tasks}
    rows: list[SFTRow] = []
    for task_id, tried in by_task(successes(experiences, threshold)).items():
        if task_id not in known:
            raise InputError(f"task {task_id} of an episode is not among the tasks; give the tasks that the episodes are of", field="tasks")
        task = known[task_id]
        specs = native_specs(tools, task) if native_tools else ()
        ranked = sorted((x for x in tried if truncated or not _was_cut(x.episode)), key=_score, reverse=True)
        rows += [row for episode_rows in _distinct(ranked, task, specs, bare)[:per_task] for row in episode_rows]
    return rows


def _distinct(ranked: Iterable[Experience], task: Task, specs: tuple[ToolSpec, ...], bare: Agent | None) -> list[list[SFTRow]]:
    """The rows of each episode that says what none before it said."""
    found: dict[tuple[tuple[Message, ...], ...], list[SFTRow]] = {}
    for experience in ranked:
        rows = [row for row in _episode_rows(experience.episode, task, specs, bare) if row.learned]
        if rows:
            found.setdefault(tuple(row.completion for row in rows), rows)
    return list(found.values())


def _episode_rows(episode: Episode, task: Task, specs: tuple[ToolSpec, ...], bare: Agent | None) -> Iterable[SFTRow]:
    for number, segment in enumerate(episode.segments):
        if not segment.steps:
            continue
        turns = segment_turns(segment)
        context = segment.context if bare is None else bare_context(segment, task, bare)
        source = episode.ref if len(episode.segments) == 1 else f"{episode.ref}#{number}"
        yield SFTRow(prompt=context, completion=turns.messages, tools=specs, without_loss=turns.failed, source=source)


def _score(experience: Experience) -> float:
    return experience.grade.score if experience.grade.score is not None else float("-inf")


def _was_cut(episode: Episode) -> bool:
    return any(step.completion.finish == "length" for step in episode.steps)


def reference_rows(
    tasks: Iterable[Task], agent: Agent, *, tools: Sequence[ToolSpec] = (), native_tools: bool | None = None, bare: bool = True
) -> list[SFTRow]:
    """The tasks' reference answers as demonstrations, asked as the agent is asked; tasks without one give none.

    tools: those of the environment, beside the agent's and the task's. native_tools: what the model says where None. bare: without
    exemplars, insights and reflections; else with those that the agent would be shown.
    """
    native = agent.load().native_tools if native_tools is None else native_tools
    rows: list[SFTRow] = []
    for task in tasks:
        if solution := reference_messages(task):
            specs = native_specs([*(item.spec for item in agent.tools), *tools], task)
            completion = solution if native else tuple(map(render_message, solution))
            prompt = first_messages(agent, task, specs, native_tools=native, bare=bare)
            source = task.source or task.id
            rows.append(SFTRow(prompt=prompt, completion=completion, tools=specs if native else (), source=source))
    return rows


def first_messages(agent: Agent, task: Task, specs: Sequence[ToolSpec], *, native_tools: bool, bare: bool) -> tuple[Message, ...]:
    """How the agent is asked the task. bare: as if it knew nothing but its instructions."""
    if bare:
        return build_messages(agent.instructions, task, specs, native_tools=native_tools)
    memory = agent.memory
    return build_messages(
        agent.instructions,
        task,
        specs,
        memory.choose(task),
        insights=memory.insights,
        reflections=memory.recall(task),
        native_tools=native_tools,
    )


class Preference(Record):
    """A judge's or a person's verdict on two episodes of one task, by `Episode.ref`. weight: how sure it is, in (0, 1]."""

    winner: str
    loser: str
    weight: float = 1.0


def preference_rows(
    experiences: Iterable[Experience],
    *,
    threshold: float = 1.0,
    margin: float | None = None,
    pairs: Literal["best", "all"] = "best",
    per_task: int = 1,
    tools: Sequence[ToolSpec] = (),
    truncated: bool = False,
) -> list[PreferenceRow]:
    """Pairs of a better and a worse episode on one task and one prompt.

    Better is a success (scored `threshold` or more) beside a failure or, where `margin` is given, a score higher by at least so much.
    pairs: `best` makes each episode part of one pair at most (the best with the worst, and so on inward), `all` takes every pair, widest
    first. per_task: at most so many pairs a task. Episodes that say the same, whose context was cleared, or (unless `truncated`) in which
    a reply was cut off make no pair. tools: as a model takes them natively. Raises `InputError` for a margin that is not positive.
    """
    if margin is not None and margin <= 0:
        raise InputError(f"the margin between a better and a worse score must be above 0, and is {margin:g}", field="margin")
    if pairs not in ("best", "all"):
        raise InputError(f"`{pairs}` is no way to pair; use best or all", field="pairs")
    rows: list[PreferenceRow] = []
    for tried in groups(experiences).values():
        usable = [x for x in tried if truncated or not _was_cut(x.episode)]
        ranked = sorted(usable, key=_score, reverse=True)
        found = [
            (better, worse)
            for better, worse in combinations(ranked, 2)
            if (_score(better) - _score(worse) >= margin if margin is not None else _score(better) >= threshold > _score(worse))
        ]
        found.sort(key=lambda pair: _score(pair[1]) - _score(pair[0]))
        rows += _paired(found, tools, once=pairs == "best")[:per_task]
    return rows


def preferred_rows(
    experiences: Iterable[Experience], preferences: Iterable[Preference], *, tools: Sequence[ToolSpec] = ()
) -> list[PreferenceRow]:
    """Pairs as a judge or a person gave them. Raises `InputError` for an episode that is not there, or for two of different prompts."""
    by_ref = {x.episode.ref: x.episode for x in experiences}
    rows: list[PreferenceRow] = []
    for given in preferences:
        for ref in (given.winner, given.loser):
            if ref not in by_ref:
                raise InputError(f"a preference names the episode {ref}, which is not among the experiences", field="preferences")
        row = _pair_row(by_ref[given.winner], by_ref[given.loser], tools)
        if row is None:
            raise InputError(
                f"the episodes {given.winner} and {given.loser} do not answer one and the same prompt in different words",
                field="preferences",
            )
        rows.append(row.model_copy(update={"weight": given.weight}))
    return rows


def _paired(pairs: Iterable[tuple[Experience, Experience]], tools: Sequence[ToolSpec], *, once: bool) -> list[PreferenceRow]:
    rows: dict[tuple[tuple[Message, ...], tuple[Message, ...]], PreferenceRow] = {}
    used: set[str] = set()
    for better, worse in pairs:
        refs = {better.episode.ref, worse.episode.ref}
        row = None if once and refs & used else _pair_row(better.episode, worse.episode, tools)
        if row is not None and (row.chosen, row.rejected) not in rows:
            rows[row.chosen, row.rejected] = row
            used |= refs
    return list(rows.values())


def _pair_row(better: Episode, worse: Episode, tools: Sequence[ToolSpec]) -> PreferenceRow | None:
    """None where the two do not answer the same prompt, or say the same."""
    first, second = _only_segment(better), _only_segment(worse)
    if first is None or second is None or first.context != second.context:
        return None
    chosen, rejected = segment_turns(first).messages, segment_turns(second).messages
    if chosen == rejected:
        return None
    source = f"{better.ref} over {worse.ref}"
    return PreferenceRow(prompt=first.context, chosen=chosen, rejected=rejected, tools=tuple(tools), source=source)


def _only_segment(episode: Episode) -> Segment | None:
    return episode.segments[0] if len(episode.segments) == 1 and episode.segments[0].steps else None
