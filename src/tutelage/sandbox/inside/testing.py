"""The side of the tests: they run here, in a process that the code under test has no part in.

A name that the tests do not define stands for a function of the code: a `Proxy`, which sends the arguments over as plain data and
receives plain data. So nothing that the code makes (an object that equals everything, a patched builtin) ever runs here.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from typing import Any

from tutelage.sandbox.inside import exchange, program, wire
from tutelage.sandbox.inside.supervisor import REPLIES, REPORT, REQUESTS

TESTS_FILE = "<tests>"
_AST_ONLY = 0x400
_SHOWN = 200


class Broken(BaseException):
    """The code cannot be tested any further. No `except Exception` of the tests catches it."""

    def __init__(self, outcome: str, words: str) -> None:
        self.outcome, self.words = outcome, words


class CandidateError(Exception):
    """An exception of the code that is not one of Python's."""


class Link:
    """The connection to the code's process, and what is known of the tests so far."""

    def __init__(self) -> None:
        self.broken: Broken | None = None
        self.calls = 0
        self.line: int | None = None
        self.last = ""
        self.raised: BaseException | None = None
        self._kinds: dict[tuple[str, type[Exception]], type[Exception]] = {}

    def open(self) -> None:
        """Wait until the code is loaded."""
        hello = self._receive()
        if isinstance(failed := hello.get("failed"), dict):
            line = failed.get("line")
            place = f" (line {line} of the code)" if isinstance(line, int) else ""
            raise self.fail("code", f"the code does not load: {_raised_words(failed)}{place}")
        if not hello.get("ready"):
            raise self.fail("ended", "the code's process said something else than the answer to a call")

    def ask(self, request: dict[str, Any]) -> dict[Any, Any]:
        """Send one request and wait for the answer."""
        if self.broken:
            raise self.broken
        try:
            exchange.send(REQUESTS, request)
        except wire.WireError as error:
            raise self.fail("tests", f"the tests pass {error}, and only plain data can be sent to the code") from None
        except BrokenPipeError:
            raise self.fail("ended", "the code's process had ended") from None
        return self._receive()

    def fail(self, outcome: str, words: str) -> Broken:
        """Remember that it is over, so that no test can pass over it; gives what to raise."""
        self.broken = self.broken or Broken(outcome, words)
        return self.broken

    def _receive(self) -> dict[Any, Any]:
        try:
            answer = exchange.receive(REPLIES)
        except EOFError:
            raise self.fail("ended", "the code's process ended") from None
        except (wire.WireError, RecursionError, MemoryError):
            answer = None
        if not isinstance(answer, dict):
            raise self.fail("ended", "the code's process said something else than the answer to a call")
        return answer

    def exception(self, told: object) -> Exception:
        """An exception of the code, as one of this process: Python's own kind where it derives from one."""
        fields = told if isinstance(told, dict) else {}
        name, *bases = _kinds(fields)
        words = _text(fields.get("words"))
        for base in (getattr(builtins, base_name, None) for base_name in bases):
            if isinstance(base, type) and issubclass(base, Exception):
                try:
                    return self._kind(name, base)(words)
                except Exception:  # noqa: BLE001, S112 -- some of Python's own want more than words; then the one it derives from
                    continue
        return self._kind(name, CandidateError)(words)

    def _kind(self, name: str, base: type[Exception]) -> type[Exception]:
        return base if name == base.__name__ else self._kinds.setdefault((name, base), type(name, (base,), {}))


class Proxy:
    """A function of the code."""

    def __init__(self, link: Link, name: str) -> None:
        self._link, self.__name__ = link, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there."""
        link = self._link
        link.calls += 1
        link.last = _written(self.__name__, args, kwargs)
        _report_line(link)
        answer = link.ask({"call": self.__name__, "args": list(args), "kwargs": kwargs})
        if answer.get("missing"):
            raise link.fail("code", f"the code defines no function `{self.__name__}`")
        if "refused" in answer:
            why = _text(answer["refused"])
            raise link.fail("refused", f"{link.last} returned {why}; only plain data (numbers, texts, lists and so on) can be compared")
        for mine, theirs in ((list(args), answer.get("args")), (kwargs, answer.get("kwargs"))):
            _reflect(mine, theirs, top=True)
        if "raised" in answer:
            error = link.raised = link.exception(answer["raised"])
            link.last += f" raised {_raised_words(answer['raised'])}"
            raise error
        if "value" not in answer:
            raise link.fail("ended", "the code's process said something else than the answer to a call")
        link.last += f" returned {_short(answer['value'])}"
        return answer["value"]


def _reflect(mine: Any, theirs: Any, top: bool = False) -> None:
    """Change the lists, dictionaries and sets that were passed as the call changed them over there."""
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, list | tuple):
        for one, other in zip(mine, theirs, strict=False):
            _reflect(one, other)
        if isinstance(mine, list) and not top:
            mine[:] = [_same_or_new(one, other) for one, other in zip(mine, theirs, strict=False)] + theirs[len(mine) :]
    elif isinstance(mine, dict):
        for key in mine.keys() & theirs.keys():
            _reflect(mine[key], theirs[key])
        if not top:
            items = [(key, _same_or_new(mine[key], value) if key in mine else value) for key, value in theirs.items()]
            mine.clear()
            mine.update(items)
    elif isinstance(mine, set):
        mine.clear()
        mine.update(theirs)


def _same_or_new(mine: Any, theirs: Any) -> Any:
    """The object that was there, where it now has the value that it should have."""
    return mine if type(mine) is type(theirs) and mine == theirs else theirs


class Names(dict[str, Any]):
    """The names of the tests. What is neither defined there nor one of Python's own is looked for in the code."""

    def __init__(self, link: Link, entry: str | None) -> None:
        super().__init__(__name__="__main__", __builtins__=builtins)
        self._link, self._entry = link, entry

    def __missing__(self, name: str) -> Any:
        target = self._entry if name == "candidate" and self._entry else name
        if target != self._entry and (hasattr(builtins, name) or not self._link.ask({"find": name}).get("function")):
            raise KeyError(name)
        proxy = Proxy(self._link, target)
        self[name] = proxy
        return proxy


def run(config: dict[str, Any]) -> int:
    """Run the tests and write the outcome into the report."""
    link = Link()
    outcome, words, line = _outcome(link, config["tests"], config["entry"])
    _report({"outcome": outcome, "words": words[:1000], "line": line, "call": link.last[:1000], "calls": link.calls})
    return 0


def _outcome(link: Link, tests: str, entry: str | None) -> tuple[str, str, int | None]:
    program.prepare("__main__")
    sys.setrecursionlimit(5000)  # the tests' own; what comes from the code is not nested deeper than the wire allows
    try:
        code = program.compiled(tests, TESTS_FILE)
        waiting = _uncalled(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "tests", f"the tests are no Python: {error}", getattr(error, "lineno", None)
    try:
        link.open()
        names = Names(link, entry)
        exec(code, names)  # noqa: S102 -- the tests
        for name in waiting:
            _call(names, name)
    except Broken as broken:
        return broken.outcome, broken.words, program.line_of(broken, TESTS_FILE)
    except BaseException as error:  # noqa: BLE001 -- whatever a test raises is its outcome
        return _failure(link, error)
    if link.broken:
        return link.broken.outcome, link.broken.words, link.line
    if not link.calls:
        return "no_call", "the tests ended without calling the code", None
    return "passed", "", None


def _call(names: Names, name: str) -> None:
    function: Callable[..., object] = names[name]
    function(*([names["candidate"]] if name == "check" else []))


def _failure(link: Link, error: BaseException) -> tuple[str, str, int | None]:
    line = program.line_of(error, TESTS_FILE)
    if link.broken:
        return link.broken.outcome, link.broken.words, line
    if error is link.raised:
        return "raised", link.last, line
    words = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, AssertionError):
        return "assertion", str(error), line
    return ("tests" if isinstance(error, SystemExit | KeyboardInterrupt) else "error"), words, line


def _uncalled(tests: str) -> list[str]:
    """`check(candidate)`, as HumanEval has it, and `test_...()` functions that the tests define and never name again."""
    tree: Any = compile(tests, TESTS_FILE, "exec", _AST_ONLY)
    named = _loaded(tree)
    found = []
    for item in tree.body:
        if type(item).__name__ == "FunctionDef" and item.name not in named:
            arguments = len(item.args.args)
            if (item.name == "check" and arguments == 1) or (item.name.startswith("test") and not arguments):
                found.append(item.name)
    return found


def _loaded(node: Any) -> set[str]:
    """The names that are used anywhere below."""
    names: set[str] = set()
    todo = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif hasattr(item, "_fields"):
            if type(item).__name__ == "Name" and type(item.ctx).__name__ == "Load":
                names.add(item.id)
            todo += [getattr(item, field, None) for field in item._fields]
    return names


def _report_line(link: Link) -> None:
    """Leave word of where the tests are, for the case that they are stopped."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != TESTS_FILE:
        frame = frame.f_back
    line = frame.f_lineno if frame is not None else None
    if line != link.line:
        link.line = line
        _report({"outcome": "unfinished", "words": "", "line": line, "call": link.last[:1000], "calls": link.calls})


def _report(state: dict[str, Any]) -> None:
    data = wire.encode(state)
    os.pwrite(REPORT, data, 0)


def _kinds(told: dict[Any, Any]) -> list[str]:
    kinds = told.get("kinds")
    names = [name for name in kinds if isinstance(name, str) and name.isidentifier()] if isinstance(kinds, list) else []
    return names[:20] or ["Exception"]


def _raised_words(told: object) -> str:
    fields = told if isinstance(told, dict) else {}
    return f"{_kinds(fields)[0]}: {_text(fields.get('words'))}".removesuffix(": ")


def _text(value: object) -> str:
    return value[:500] if isinstance(value, str) else ""


def _written(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    parts = [*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())]
    return f"{name}({', '.join(parts)})"


def _short(value: object) -> str:
    try:
        text = repr(value[:_SHOWN] if isinstance(value, str | bytes | list | tuple) and len(value) > _SHOWN else value)
    except (ValueError, RecursionError):  # a whole number of too many digits
        text = f"a large {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
