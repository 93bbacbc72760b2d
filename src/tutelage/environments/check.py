"""A checker that any environment can be run through: what a careful author would want to know before an agent learns in it.

    report = check_environment(World, tasks)
    assert report.ok, report.findings

It plays with random calls that fit the tools' schemas, with malformed ones, with silence, and with the tasks' references. What it cannot
see: whether the tasks are worth learning, and what native code does to the process itself, which then ends.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from typing import Any

from tutelage.agent import Agent, Limits
from tutelage.environment import EnvironmentFactory
from tutelage.environments.check_bench import CHECKS, Bench, Finding, Known, Severity, Solution
from tutelage.environments.probe import Broken, Play, held, settled, where
from tutelage.environments.random_calls import malformed_calls, valid_arguments
from tutelage.episode import run_episode
from tutelage.errors import InputError
from tutelage.models.scripted import Scripted
from tutelage.records import Task, ToolCall, ToolFailure
from tutelage.task_formats.references import reference_messages

RESETS = 20
"""Episodes over which open files, child processes and threads are counted."""

GARBAGE = "xyzzy plugh qwertz"

_SLACK = 4  # files, children or threads that may come and go by themselves
_SLOW = 1.0  # seconds
_SHOWN = 120  # characters of a text in a finding


@dataclass(frozen=True)
class CheckReport:
    """All that was found.

    checked: those of `CHECKS` that could be made. reset_ms, step_ms: the median, in milliseconds; None where nothing was measured.
    """

    findings: tuple[Finding, ...]
    tasks: int
    checked: tuple[str, ...] = ()
    reset_ms: float | None = None
    step_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def demonstrated(task: Task) -> list[str | ToolCall] | None:
    """The agent's turns that the task's reference shows: its calls one by one, then its text. None where it shows no answer.

    Raises `InputError` for expected calls that cannot be read.
    """
    if isinstance(task.reference, dict) and "calls" not in task.reference:
        return None  # what a grader needs, such as tests, and no answer
    messages = reference_messages(task)
    if not messages:
        return None
    calls = [call for message in messages for call in message.tool_calls]
    return [*calls, messages[-1].text or ("Done." if calls else "")]


def check_environment(
    factory: EnvironmentFactory, tasks: Sequence[Task], *, steps: int = 20, seed: int = 0, solution: Solution = demonstrated
) -> CheckReport:
    """Run the environment through all checks on these tasks.

    factory: makes an environment, fresh for each episode. steps: calls in a row, where they are made at random. seed: of all that is
    random. solution: the agent's turns (texts and calls) that solve a task, or None where they are not known; by default what the reference
    shows. Raises `InputError` where there is no task; whatever the environment does wrong is a finding. Within a running event loop await
    `examine` instead.
    """
    return asyncio.run(examine(factory, tasks, steps=steps, seed=seed, solution=solution))


async def examine(
    factory: EnvironmentFactory, tasks: Sequence[Task], *, steps: int = 20, seed: int = 0, solution: Solution = demonstrated
) -> CheckReport:
    """As `check_environment`."""
    if not tasks:
        raise InputError("an environment is checked on tasks, and there is none", field="tasks")
    bench = Bench(factory, steps, seed, solution, checked={"reset"})
    for number, task in enumerate(tasks):
        await _check_task(bench, task, task.source or f"task {number + 1}")
    if bench.plays:
        await _check_isolation(bench)
        await _check_resources(bench)
    _check_ends(bench, len(tasks))
    order = list(CHECKS)
    findings = sorted(bench.found.values(), key=lambda finding: (order.index(finding.check), list(Severity).index(finding.severity)))
    checked = tuple(check for check in CHECKS if check in bench.checked)
    return CheckReport(tuple(findings), len(tasks), checked, _milliseconds(bench.resets), _milliseconds(bench.step_times))


async def _check_task(bench: Bench, task: Task, label: str) -> None:
    try:
        first = await bench.begin(task)
    except Broken as broken:
        raised = "making or resetting it" if broken.phase == "reset" else "its tools cannot be read: it"
        bench.note(Severity.ERROR, broken.phase, f"{raised} raised {where(broken.cause)}", label, kind="raised")
        return
    if any(first.world is other for other in bench.worlds):
        bench.note(Severity.ERROR, "reset", "the factory gave the same object twice; each episode needs a fresh one", kind="same")
    bench.worlds = [first.world]
    _check_start(bench, first, label)
    calls = await _explore(bench, first, label)
    bench.plays.append(Known(task, calls, _shown(first)))
    await bench.end(first, label)
    await _check_again(bench, bench.plays[-1], label)
    await _check_malformed(bench, task, label)
    bench.checked |= {"tools", "determinism", "resources", "speed"} | (
        {"actions", "malformed", "isolation", "done"} if first.tools else set()
    )
    if getattr(first.world, "grade", None) is None:
        bench.note(Severity.NOTE, "grade", "it has no `grade`: a study needs a grader of its own, and success could not be checked")
        return
    bench.checked |= {"grade", "silence"}
    await _check_silence(bench, task, label)
    await _check_reference(bench, task, label)


def _check_start(bench: Bench, play: Play, label: str) -> None:
    bench.has_tools = bench.has_tools or bool(play.tools)
    if not isinstance(play.opening, str | None):
        words = f"`reset` gave {type(play.opening).__name__}; it must give a text, or None"
        bench.note(Severity.ERROR, "reset", words, label, kind="type")
    if not play.tools:
        bench.note(Severity.NOTE, "tools", "it has no tools: an agent can only answer")
    for name, error in play.broken.items():
        bench.note(Severity.ERROR, "tools", f"the schema of `{name}` is broken: {error.message}", kind=f"schema {name}")
    for item in play.tools.values():
        if not item.spec.description.strip():
            bench.note(Severity.WARNING, "tools", f"`{item.spec.name}` has no description; the model will not know what it does")
        _check_arguments(bench, item.spec.name, item.spec.parameters.get("properties"))
    bench.has_done = bench.has_done or hasattr(play.world, "done")
    if not isinstance(getattr(play.world, "done", False), bool):
        bench.note(Severity.WARNING, "done", f"`done` is {getattr(play.world, 'done', None)!r}; let it be True or False", kind="type")
    if play.done:
        bench.note(Severity.ERROR, "done", "`done` is True before the first action", label, kind="early")


def _check_arguments(bench: Bench, name: str, properties: Any) -> None:
    bare = [key for key, schema in properties.items() if not schema.get("description")] if isinstance(properties, dict) else []
    if bare:
        bench.note(Severity.NOTE, "tools", f"`{name}` does not say what {', '.join(bare)} is; describe it under `Args:`")


async def _explore(bench: Bench, play: Play, label: str) -> tuple[ToolCall, ...]:
    """Random calls that fit the schemas, now and then the reference's next one, and one more after the end."""
    random, calls = Random(f"{bench.seed}/{play.task.id}"), list[ToolCall]()
    leading = _known_calls(bench, play.task)
    words = f"{play.task.text} {play.opening or ''}".split()
    while play.tools and len(calls) < bench.steps:
        if leading and random.random() < 0.3:
            drawn = leading.pop(0)
        else:
            spec = random.choice(list(play.tools.values())).spec
            drawn = ToolCall(id="", name=spec.name, arguments=_json(valid_arguments(spec, random, words)))
        calls.append(drawn.model_copy(update={"id": f"call_{len(calls) + 1}"}))
        over = play.done
        words += (await play.step(calls[-1])).text.split()[:50]
        if over:
            break
    _note_raised(bench, play, "actions", label)
    return tuple(calls)


def _known_calls(bench: Bench, task: Task) -> list[ToolCall]:
    """The calls of the known solution."""
    try:
        return [turn for turn in bench.solution(task) or () if isinstance(turn, ToolCall)]
    except InputError:
        return []  # said where the reference is checked


def _note_raised(bench: Bench, play: Play, check: str, label: str) -> None:
    for call, error in play.raised:
        words = f"`{call.name}` raised {where(error)} for {_short(call.arguments)}; raise ToolError to tell the agent what is wrong"
        bench.note(Severity.ERROR, check, words, label, kind=f"{call.name} {type(error).__name__}")
    for observation in play.seen:
        if observation.failure is ToolFailure.TIMEOUT:
            bench.note(Severity.ERROR, check, observation.text, label)


async def _check_again(bench: Bench, known: Known, label: str) -> None:
    """A second fresh environment, the same calls: nothing may differ."""
    try:
        play = await bench.begin(known.task)
    except Broken as broken:
        bench.note(Severity.ERROR, "reset", f"the second fresh environment raised {where(broken.cause)}", label, kind="second")
        return
    if any(play.world is other for other in bench.worlds):
        bench.note(Severity.ERROR, "reset", "the factory gave the same object twice; each episode needs a fresh one", kind="same")
    for call in known.calls:
        await play.step(call)
    difference = _difference(known, play)
    if difference:
        bench.deterministic = False
        bench.note(Severity.ERROR, "determinism", f"played twice alike, {difference}", label, kind="differs")
    await bench.end(play, label)


def _shown(play: Play) -> tuple[Any, ...]:
    return (play.opening, *((seen.text, seen.failure) for seen in play.seen))


def _difference(known: Known, play: Play, first: str = "first", second: str = "then") -> str:
    """The first thing that was shown otherwise, in words; empty where there is none. first, second: when."""
    for step, (before, now) in enumerate(zip(known.shown, _shown(play), strict=False)):
        if before != now:
            told = (before, now) if step == 0 else (before[0], now[0])
            call = known.calls[step - 1] if step else None
            what = f"the answer to call {step}, {call.name}({_short(call.arguments)})," if call else "the opening"
            return f"{what} was {first} {_short(_parting(*told))}, {second} {_short(_parting(told[1], told[0]))}"
    return ""


def _parting(seen: Any, beside: Any) -> str:
    """The text from a little before where it parts from the other."""
    text, other = str(seen), str(beside)
    same = next((place for place, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return ("..." if same > 20 else "") + text[max(0, same - 20) :]


async def _check_malformed(bench: Bench, task: Task, label: str) -> None:
    try:
        play = await bench.begin(task)
    except Broken:
        return  # said before
    random = Random(f"{bench.seed}/{task.id}/malformed")
    for item in play.tools.values():
        for call in malformed_calls(item.spec, random, task.text.split()):
            await play.step(call)
    _note_raised(bench, play, "malformed", label)
    await bench.end(play, label)


async def _check_silence(bench: Bench, task: Task, label: str) -> None:
    scores = [await _graded(bench, task, label, [text]) for text in ("", GARBAGE)]
    if any(score is not None and score >= 1 for score in scores):
        bench.note(Severity.WARNING, "silence", "an agent that says nothing, or garbage, is graded 1", label, kind="passes")


async def _check_reference(bench: Bench, task: Task, label: str) -> None:
    try:
        turns = bench.solution(task)
    except InputError as error:
        bench.note(Severity.ERROR, "reference", f"the reference cannot be read: {error}", label, kind="unreadable")
        return
    if turns is None:
        bench.unsolved += 1
        return
    bench.checked.add("reference")
    score = await _graded(bench, task, label, turns)
    if score is not None and score < 1:
        calls = sum(isinstance(turn, ToolCall) for turn in turns)
        said = " and ".join(_short(turn) for turn in turns if isinstance(turn, str))
        shown = f"{calls} calls and {said}" if calls else said
        bench.note(Severity.ERROR, "reference", f"the reference ({shown}) is graded {score:g}", label, kind="graded")


async def _graded(bench: Bench, task: Task, label: str, replies: Sequence[str | ToolCall]) -> float | None:
    """The score of an episode in which the agent makes these replies; None where it is not graded, or wrongly (then a finding)."""
    agent = Agent(model=Scripted(list(replies), record=False), limits=Limits(steps=max(1, len(replies))))
    made: list[Any] = []

    def watched() -> Any:
        made.append(bench.factory())
        return made[-1]

    try:
        episode = await run_episode(agent, task, environment=watched)
    except Exception as error:  # noqa: BLE001 -- anyone's code: what it raises is a finding
        bench.note(Severity.ERROR, "grade", f"`grade` or `close` raised {where(error)}", label, kind="raised")
        return None
    bench.ended = bench.ended or bool(getattr(made[-1], "done", False))
    grade = episode.environment_grade
    score = None if grade is None else grade.score
    if score is not None and not (math.isfinite(score) and 0 <= score <= 1):
        bench.note(Severity.ERROR, "grade", f"the score is {score!r}; it must lie in [0, 1], or be None", label, kind="range")
        return None
    return score


async def _check_isolation(bench: Bench) -> None:
    """Three environments alive at once, two of them on one task: each must show what it showed alone."""
    if not bench.deterministic:
        bench.note(Severity.NOTE, "isolation", "not checked: the environment is not deterministic")
        return
    if not bench.has_tools:
        return
    one, other = bench.plays[0], bench.plays[-1]
    try:
        plays = [(known, await bench.begin(known.task)) for known in (one, other, one)]
    except Broken as broken:
        bench.note(Severity.ERROR, "isolation", f"while others were alive, it raised {where(broken.cause)}")
        return
    for number in range(max(len(one.calls), len(other.calls))):  # the first two take turns
        for known, play in plays[:2]:
            if number < len(known.calls):
                await play.step(known.calls[number])
    for call in one.calls:
        await plays[2][1].step(call)
    for known, play in plays:
        if difference := _difference(known, play, "alone", "beside others"):
            bench.note(Severity.ERROR, "isolation", f"environments that are alive together share something: {difference}", kind="shared")
        await bench.end(play, "")


async def _check_resources(bench: Bench) -> None:
    known = bench.plays[0]
    if not sys.platform.startswith("linux"):
        bench.note(Severity.NOTE, "resources", "open files and child processes are only counted on Linux")
    await _one_episode(bench, known)
    before = held()
    play = await _one_episode(bench, known, close=False)
    if play and not hasattr(play.world, "close") and (open_now := held().more_than(before)):
        bench.note(Severity.WARNING, "resources", f"it holds {open_now} while it lives, and has no `close`")
    if play:
        await bench.end(play, "")
    del play
    for _ in range(RESETS):
        await _one_episode(bench, known)
    if grown := held().more_than(before, _SLACK):
        bench.note(Severity.ERROR, "resources", f"{grown} more are open after {RESETS} episodes; free them in `close`", kind="grows")
    try:
        if close := getattr(bench.factory(), "close", None):
            await settled(close())
    except Exception as error:  # noqa: BLE001 -- anyone's code: what it raises is a finding
        bench.note(Severity.ERROR, "resources", f"`close` before `reset` raised {where(error)}; it is called where `reset` fails")


async def _one_episode(bench: Bench, known: Known, *, close: bool = True) -> Play | None:
    try:
        play = await bench.begin(known.task)
    except Broken as broken:
        bench.note(Severity.ERROR, "reset", f"a later fresh environment raised {where(broken.cause)}", kind="later")
        return None
    await play.steps(known.calls[:2])
    if close:
        await bench.end(play, "")
    return play


def _check_ends(bench: Bench, count: int) -> None:
    passed = bench.found.get(("silence", "passes"))
    if passed and 2 * len(passed.tasks) > count:
        bench.found["silence", "passes"] = replace(passed, severity=Severity.ERROR)
    if bench.unsolved:
        words = f"the reference of {bench.unsolved} of {count} tasks shows no answer: whether they can be solved was not checked"
        bench.note(Severity.NOTE, "reference", words)
    if bench.has_tools and not bench.has_done:
        bench.note(Severity.NOTE, "done", "it has no `done`: an episode ends when the agent answers in text, or at its limits")
    elif bench.has_done and not bench.ended:
        words = (
            f"`done` never became True, in {bench.steps} random calls and by the references; see that the agent's `limits` end its episodes"
        )
        bench.note(Severity.NOTE, "done", words)
    if bench.resets and max(bench.resets) > _SLOW:
        words = f"`reset` took up to {max(bench.resets):.1f} s, during which all other episodes wait; prepare what can be prepared"
        bench.note(Severity.WARNING, "speed", words)
    if bench.step_times and median(bench.step_times) > _SLOW:
        bench.note(Severity.WARNING, "speed", f"a call takes {median(bench.step_times):.1f} s")


def _milliseconds(seconds: Sequence[float]) -> float | None:
    return 1000 * median(seconds) if seconds else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
