# pathlib is slow to import, and this starts anew for every run:
# ruff: noqa: PTH100, PTH120
"""The command line of the other process: `python -I -S boot.py`, with what to do on standard input."""

from __future__ import annotations

import sys
from os.path import abspath, dirname
from types import ModuleType


def begin() -> None:
    """Import this package's part that needs the standard library alone, without running the package's own beginning."""
    folder = dirname(abspath(__file__))
    for name, depth in (("tutelage", 2), ("tutelage.sandbox", 1), ("tutelage.sandbox.inside", 0)):
        module = ModuleType(name)
        path = folder
        for _ in range(depth):
            path = dirname(path)
        module.__path__ = [path]
        sys.modules[name] = module
    from tutelage.sandbox.inside import candidate, program, supervisor, testing

    supervisor.main({"code": program.run, "candidate": candidate.serve, "tests": testing.run})


if __name__ == "__main__":
    begin()
