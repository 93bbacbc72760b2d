"""Running a program, and testing code without trusting it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

from tutelage.errors import InputError
from tutelage.sandbox.abilities import sandbox_abilities
from tutelage.sandbox.inside import wire
from tutelage.sandbox.process import Run, start
from tutelage.sandbox.records import DEFAULT_LIMITS, Outcome, SandboxLimits, SandboxResult, Stopped, TestsResult

LONGEST_CODE = 1_000_000
"""Characters of a program; a longer one is refused with the words that Python would have for a wrong one."""

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def run_python(
    code: str, *, stdin: str = "", files: Mapping[str, str | bytes] | None = None, limits: SandboxLimits = DEFAULT_LIMITS
) -> SandboxResult:
    """Run a program in a process of its own, with the standard library, without network, in a folder that is gone afterwards.

    files: written into its folder first, by relative path. At most two runs per processor go on at once; others wait, and their time has
    not begun. Cancelling ends everything that the program started. What this protects from, and what not: docs/sandbox.md.

    Raises `InputError` for a path of `files` that leads out of the folder, `SandboxFailed` where the sandbox itself fails.
    """
    config = {"mode": "code", "code": code, "stdin": _bytes(stdin), "files": _checked(files or {})}
    if len(code) > LONGEST_CODE:
        return SandboxResult(exit_code=1, stderr=f"SyntaxError: the program is longer than {LONGEST_CODE} characters")
    able = await asyncio.to_thread(sandbox_abilities)
    async with _slot():
        run = await start(config, limits, able)
        return _result(await run.result(), limits)


async def run_tests(code: str, tests: str, *, entry: str | None = None, limits: SandboxLimits = DEFAULT_LIMITS) -> TestsResult:
    """Run `tests` (Python text: asserts, functions) against the functions that `code` defines, each in a process of its own.

    The code's process never sees the tests; the tests' process receives from it nothing but plain data, so code cannot forge its way
    through. Every name that the tests do not define and Python does not know is a function of the code; arguments and results are None,
    bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, subclasses as what they derive from. Lists, dictionaries and
    sets that are passed change as the code changes them; an exception arrives as Python's own type, or one named after it. A function
    that returns anything else is REFUSED; objects of the code's own classes cannot be tested.

    entry: the function under test; it may be called `candidate` too, and may have the name of one of Python's functions. A function
    `check` with one argument that the tests define and do not call is called with it (HumanEval), and so are `test_...` functions
    without one. The limits hold for each of the two processes. Raises `SandboxFailed` where the sandbox itself fails.
    """
    if len(code) > LONGEST_CODE:
        return TestsResult(outcome=Outcome.CODE, words=f"the code is longer than {LONGEST_CODE} characters")
    await asyncio.to_thread(sandbox_abilities)
    async with _slot():
        said, other = await _both({"mode": "candidate", "code": code}, {"mode": "tests", "tests": tests, "entry": entry}, limits)
    return _judged(said, other, tests, limits)


async def _both(code: dict[str, Any], tests: dict[str, Any], limits: SandboxLimits) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Both processes, joined by two pipes: what the tests' supervisor says, and what the code's says if it ended before being stopped."""
    able = sandbox_abilities()
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    runs: list[Run] = []
    try:
        try:
            runs.append(await start(code, limits, able, (asked, answer)))
            runs.append(await start(tests, limits, able, (ask, answered)))
        finally:
            for number in (asked, ask, answered, answer):
                os.close(number)
        serving = asyncio.create_task(runs[0].result())
        try:
            said = await runs[1].result()
            return said, await _if_ended(serving)
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    finally:
        for run in runs:
            await asyncio.shield(run.stop())


async def _if_ended(serving: asyncio.Task[dict[str, Any]]) -> dict[str, Any] | None:
    """The code's end, where it came with or before the tests' end: why it ended."""
    await asyncio.wait([serving], timeout=0.3)
    return serving.result() if serving.done() else None


def _judged(said: dict[str, Any], other: dict[str, Any] | None, tests: str, limits: SandboxLimits) -> TestsResult:
    report = _report(said["report"])
    outcome, words, line = report.get("outcome"), report.get("words", ""), report.get("line")
    stopped = None
    if outcome in (None, "unfinished") or (outcome == "ended" and other and other["stopped"]):
        stopped = said["stopped"] or (other or {}).get("stopped")
        outcome = Outcome.STOPPED if stopped else Outcome.TESTS if outcome is None else Outcome.ENDED
        words = _stopped_words(stopped, limits) if stopped else "the tests ended before their end"
    elif outcome == "ended" and other:
        words = f"{words} (exit code {other['exit_code']})"
    result = TestsResult(
        outcome=Outcome(outcome),
        line=line,
        statement=_line(tests, line),
        call=report.get("call", ""),
        calls=report.get("calls", 0),
        stopped=stopped and Stopped(stopped),
        seconds=said["seconds"],
    )
    return result.model_copy(update={"words": _words(result, words)})


def _words(result: TestsResult, words: str) -> str:
    if result.passed:
        return "every test holds"
    place = f"line {result.line} of the tests" + (f": `{result.statement}`" if result.statement else "")
    if result.outcome is Outcome.ASSERTION:
        said = f" ({words})" if words else ""
        return f"an assertion does not hold, {place}{said}" + (f"; the last call: {result.call}" if result.call else "")
    called = f", calling {result.call}" if result.stopped and result.call else ""
    return words + (f"; {place}{called}" if result.line else "")


def _stopped_words(stopped: str, limits: SandboxLimits) -> str:
    return {
        "time": f"stopped after {limits.seconds:g} s",
        "cpu": f"stopped after {limits.cpu_seconds:g} s of processor time",
        "memory": f"stopped at {limits.memory_mb} MB of memory",
        "processes": f"stopped at {limits.processes} processes",
        "output": "stopped because of endless output",
    }[stopped]


def _report(data: bytes) -> dict[str, Any]:
    try:
        report = wire.decode(data)
    except wire.WireError:
        return {}
    return report if isinstance(report, dict) else {}


def _line(text: str, line: int | None) -> str:
    lines = text.splitlines()
    return lines[line - 1].strip()[:300] if line and line <= len(lines) else ""


def _result(answer: dict[str, Any], limits: SandboxLimits) -> SandboxResult:
    out, err = (answer[name].decode("utf-8", "replace") for name in ("stdout", "stderr"))
    kept = limits.output_chars
    return SandboxResult(
        exit_code=answer["exit_code"],
        stdout=out[:kept],
        stderr=err[-kept:],
        stopped=answer["stopped"] and Stopped(answer["stopped"]),
        seconds=answer["seconds"],
        truncated=any(answer["beyond"]) or len(out) > kept or len(err) > kept,
    )


def _slot() -> asyncio.Semaphore:
    loop = asyncio.get_running_loop()
    if loop not in _slots:
        _slots[loop] = asyncio.Semaphore(2 * (os.cpu_count() or 1))
    return _slots[loop]


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _checked(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise InputError(f"`{name}` is no path within the program's folder: give a relative one, without `..`", field="files")
    return {name: _bytes(content) for name, content in files.items()}
