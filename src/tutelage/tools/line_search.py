"""The part of grep that runs as a process of its own: a regular expression can take for ever, and only a process can be stopped.

Run by its path (`python -I -S line_search.py`), so it needs the standard library alone. Reads a line of JSON, {"pattern", "ignore_case",
"most", "sizes"}, and behind it the files' bytes one after the other. Writes lines of JSON: [file, line, text] for each of the first
`most` matching lines, then {"matches": all of them}; or {"error": words} for a pattern that does not compile.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from contextlib import suppress
from typing import Any, BinaryIO, TextIO

LINE_CHARACTERS = 10_000
"""So much of a line is searched."""
SHOWN_CHARACTERS = 240


def search(source: BinaryIO, out: TextIO) -> None:
    """Read the request and the files, write what matches as it is found."""
    request = json.loads(source.readline())
    try:
        pattern = re.compile(request["pattern"], re.IGNORECASE if request["ignore_case"] else 0)
    except (re.error, OverflowError, RecursionError) as error:
        _say(out, {"error": str(error)})
        return
    matches = 0
    for number, size in enumerate(request["sizes"]):
        text = source.read(size).decode("utf-8", "backslashreplace")
        for at, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
            found = pattern.search(line, 0, LINE_CHARACTERS)
            if found:
                matches += 1
                if matches <= request["most"]:
                    _say(out, [number, at, _around(line, found.start())])
    _say(out, {"matches": matches})


def _say(out: TextIO, value: Any) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


def _around(line: str, start: int) -> str:
    """The line, or of a long one the part around the match."""
    if len(line) <= SHOWN_CHARACTERS:
        return line
    begin = max(0, start - SHOWN_CHARACTERS // 3)
    end = begin + SHOWN_CHARACTERS
    return ("..." if begin else "") + line[begin:end] + ("..." if end < len(line) else "")


def limit_processor_time(seconds: int) -> None:
    """Let the system end this process, should nobody be left to do so."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of doubtful character sets in a model's pattern
    limit_processor_time(60)
    search(sys.stdin.buffer, sys.stdout)
