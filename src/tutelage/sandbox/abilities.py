"""What this machine lets the sandbox do: found out once, by trying."""

from __future__ import annotations

import os
import sys
from functools import cache

from tutelage.sandbox.process import run_once
from tutelage.sandbox.records import SandboxAbilities, SandboxFailed, SandboxLimits

_TRIAL = "import fractions, os\nchild = os.fork()\nif not child: os._exit(0)\nos.waitpid(child, 0)\nprint(fractions.Fraction(1, 2))"
"""Loads a part of the standard library and starts a process, both from within."""


@cache
def sandbox_abilities() -> SandboxAbilities:
    """Try the strongest means first; what fails is left out, with the reason. Takes up to about half a second, once."""
    if sys.platform == "win32":
        return SandboxAbilities(system=sys.platform, missing={"limits": "Windows has none of the means"})
    bare = SandboxAbilities(system=sys.platform, missing={})
    if problem := _problem(bare):
        return bare.model_copy(update={"missing": {"limits": problem}})
    able = bare.model_copy(update={"limits": True})
    if sys.platform != "linux":
        return able.model_copy(update={"missing": {"namespaces, seccomp, landlock": "only Linux has them"}})
    for name in ("namespaces", "landlock", "own_user", "seccomp", "count_processes"):
        able = _with(able, name)
    return able.model_copy(update={"count_processes": able.own_user or able.count_processes})


def _with(able: SandboxAbilities, name: str) -> SandboxAbilities:
    """The abilities with one more, where it works."""
    if able.namespaces and name == "landlock":
        return able  # the code sees no other files anyway
    more = able.model_copy(update={name: True})
    problem = _cannot(able, name) or _problem(more)
    return able.model_copy(update={"missing": {**able.missing, name: problem}}) if problem else more


def _cannot(able: SandboxAbilities, name: str) -> str | None:
    root = os.geteuid() == 0
    if name == "own_user" and not root:
        return "only root can give one" if not able.namespaces else "not needed in a namespace of the user's own"
    if name == "count_processes" and (root or not able.namespaces) and not able.own_user:
        return "needs namespaces or a user of its own; processes are counted from outside instead"
    return None


def _problem(able: SandboxAbilities) -> str | None:
    """Why a small program does not run with these means; None where it does."""
    try:
        answer = run_once({"mode": "code", "code": _TRIAL}, SandboxLimits(seconds=10, cpu_seconds=10), able)
    except SandboxFailed as error:
        return str(error)
    if answer["exit_code"] == 0 and answer["stdout"] == b"1/2\n":
        return None
    words = answer["stderr"].decode("utf-8", "replace").strip().splitlines()
    return words[-1] if words else f"the trial ended with {answer['exit_code']} ({answer['stopped']})"
