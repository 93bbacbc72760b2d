"""The side of the code under test: it loads the code, then calls the functions that the tests' process asks for.

Nothing here has to be trusted: whatever the code does to this process, all that can leave it is plain data, as an answer to a call.
"""

from __future__ import annotations

import builtins
from typing import Any

from tutelage.sandbox.inside import exchange, program, wire
from tutelage.sandbox.inside.supervisor import REPLIES, REQUESTS

MODULE = "solution"


def serve(config: dict[str, Any]) -> int:
    """Load the code and answer calls until the tests' process is gone."""
    names = program.prepare(MODULE)
    try:
        exec(program.compiled(config["code"], program.CODE_FILE), names)  # noqa: S102 -- this is what the sandbox is for
    except BaseException as error:  # noqa: BLE001 -- whatever the code raises is told to the tests' process
        exchange.send(REPLIES, {"failed": _told(error)})
        return 1
    exchange.send(REPLIES, {"ready": True})
    while True:
        try:
            request: Any = exchange.receive(REQUESTS)
        except EOFError:
            return 0
        exchange.send(REPLIES, _answer(names, request))


def _answer(names: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    if "find" in request:
        return {"function": callable(names.get(request["find"]))}
    function, args, kwargs = names.get(request["call"]), request["args"], request["kwargs"]
    if not callable(function):
        return {"missing": True}
    try:
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 -- as above
        return {"raised": _told(error), **_after(args, kwargs)}
    try:
        wire.encode(value)
    except (wire.WireError, RecursionError) as error:
        return {"refused": str(error)}
    return {"value": value, **_after(args, kwargs)}


def _after(args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the call left them, where they still are plain data."""
    try:
        wire.encode([args, kwargs])
    except (wire.WireError, RecursionError):
        return {}
    return {"args": args, "kwargs": kwargs}


def _told(error: BaseException) -> dict[str, Any]:
    try:
        words = (error.msg if isinstance(error, SyntaxError) else str(error))[:500]
    except BaseException:  # noqa: BLE001 -- the code's own exception may do anything when it is asked for its words
        words = ""
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, BaseException)]
    known = [name for name in kinds if isinstance(getattr(builtins, name, None), type)]
    return {"kinds": [kinds[0], *known], "words": words, "line": program.line_of(error, program.CODE_FILE)}
