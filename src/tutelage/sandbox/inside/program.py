"""Running a text as a program, and showing what it raised without frames of ours."""

from __future__ import annotations

import builtins
import sys
from contextlib import suppress
from types import CodeType, ModuleType, TracebackType
from typing import Any

CODE_FILE = "<code>"


def prepare(name: str) -> dict[str, Any]:
    """The names of a fresh module that takes the place of `__main__`."""
    module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    sys.argv = [CODE_FILE]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed is seen even where the program is stopped
    return module.__dict__


def compiled(text: str, name: str) -> CodeType:
    """The program's code. Raises whatever Python raises for a text that is no program."""
    return compile(text, name, "exec", dont_inherit=True)


def run(config: dict[str, Any]) -> int:
    """Run the program as `python file.py` would; gives its exit code."""
    names = prepare("__main__")
    try:
        exec(compiled(config["code"], CODE_FILE), names)  # noqa: S102 -- this is what the sandbox is for
        code = 0
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:  # noqa: BLE001 -- whatever a program raises is shown, as Python itself would
        code = 1
        try:
            show(error, config["code"])
        except BaseException:  # noqa: BLE001 -- there was no memory left for more, or the exception has no words
            with suppress(BaseException):
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return finish(code)


def finish(code: int) -> int:
    """What Python does at the end of a program: wait for threads, run what was left for the exit, empty the buffers."""
    with suppress(BaseException):
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
    with suppress(BaseException):
        import atexit

        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    return code


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)
    return 1


def show(error: BaseException, text: str) -> None:
    """Write the traceback as Python would, with the lines of a text that stands in no file."""
    import linecache  # slow to import, and most programs need neither
    import traceback

    linecache.cache[CODE_FILE] = (len(text), None, text.splitlines(keepends=True), CODE_FILE)
    traceback.print_exception(type(error), error, own_frames(error.__traceback__, CODE_FILE))


def own_frames(trace: TracebackType | None, name: str) -> TracebackType | None:
    """The traceback from the first frame of the text on."""
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    return trace


def line_of(error: BaseException, name: str) -> int | None:
    """The line of the text `name` where the error was raised, or from where what raised it was called; the innermost such."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
