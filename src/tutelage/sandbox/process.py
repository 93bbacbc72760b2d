"""Starting the process that supervises one run, and reading its answer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.sandbox.inside import wire
from tutelage.sandbox.records import SandboxAbilities, SandboxFailed, SandboxLimits

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).parent / "inside" / "boot.py"))
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""All that the code sees of the environment: no key, no token."""

SPARE_SECONDS = 10.0
"""How much longer than its limit a run may take until its supervisor is given up."""
_GRACE_SECONDS = 3.0


class Run:
    """One run that was started; `result` waits for its end, `stop` brings it about."""

    def __init__(self, process: asyncio.subprocess.Process, config: dict[str, Any], seconds: float) -> None:
        self._process, self._config, self._seconds = process, config, seconds

    async def result(self) -> dict[str, Any]:
        """What the supervisor says. Raises `SandboxFailed` where it says nothing sensible. Cancelling ends the run."""
        try:
            async with asyncio.timeout(self._seconds + SPARE_SECONDS):
                out, err = await self._process.communicate(wire.encode(self._config))
        except TimeoutError:
            raise SandboxFailed(f"the sandbox gave no answer {SPARE_SECONDS:g} s after the time was over") from None
        finally:
            await asyncio.shield(self.stop())
        return _answer(out, err)

    async def stop(self) -> None:
        """End the run and all that it started, and remove its folder."""
        if self._process.returncode is None:
            await _end(self._process)
        if self._config["folder"]:
            await asyncio.to_thread(remove, self._config["folder"])


async def start(config: dict[str, Any], limits: SandboxLimits, abilities: SandboxAbilities, pipes: Sequence[int] = ()) -> Run:
    """Start one run. pipes: what the code's process gets as `REQUESTS` and `REPLIES`; the caller closes its own copies."""
    whole = complete(config, limits, abilities, pipes)
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, pass_fds=tuple(pipes)
        )
    except OSError as error:
        remove(whole["folder"])
        raise SandboxFailed(f"Python cannot be started: {error}") from None
    return Run(process, whole, limits.seconds)


def run_once(config: dict[str, Any], limits: SandboxLimits, abilities: SandboxAbilities) -> dict[str, Any]:
    """One run, waited for: for the first look at what the machine can do. Raises `SandboxFailed`."""
    whole = complete(config, limits, abilities)
    try:
        done = subprocess.run(  # noqa: S603 -- this very Python with a file of this package
            COMMAND, input=wire.encode(whole), capture_output=True, env=ENVIRONMENT, timeout=limits.seconds + SPARE_SECONDS, check=False
        )
        return _answer(done.stdout, done.stderr)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxFailed(str(error)) from None
    finally:
        remove(whole["folder"])


def complete(config: dict[str, Any], limits: SandboxLimits, abilities: SandboxAbilities, pipes: Sequence[int] = ()) -> dict[str, Any]:
    """The configuration with everything that the supervisor reads. Raises `InputError` on Windows."""
    if sys.platform == "win32":
        raise InputError("code can be run on Linux and macOS; on Windows run tutelage inside WSL")
    folder = "" if abilities.namespaces else tempfile.mkdtemp(prefix="tutelage-sandbox-")
    may = abilities.model_dump(include={"namespaces", "own_user", "seccomp", "landlock", "count_processes"})
    given = {"stdin": b"", "files": {}, "entry": None, "tests": "", **config}
    return {**given, **may, "limits": limits.model_dump(), "folder": folder, "pipes": list(pipes), "caller": os.getpid()}


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()  # it ends what it started, then itself
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.wait()
            return
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def remove(folder: str) -> None:
    """Remove a run's folder, whatever the code did to the rights of what is in it. Nothing outside of it is ever touched."""
    if folder and Path(folder).is_symlink():  # the code moved its folder away and put a link in its place
        Path(folder).unlink()
    elif folder and Path(folder).is_dir():
        with suppress(RecursionError):  # nested a thousand deep: what is left stays
            shutil.rmtree(folder, ignore_errors=True)
            if Path(folder).is_dir():
                _open_up(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: str) -> None:
    """Give ourselves the rights to every folder in it; links are not followed."""
    with suppress(OSError):
        Path(folder).chmod(0o700)
    for place, names, _ in os.walk(folder):  # which looks into a folder after we have opened it
        for name in names:
            with suppress(OSError):
                if not (Path(place) / name).is_symlink():
                    (Path(place) / name).chmod(0o700)


def _answer(out: bytes, err: bytes) -> dict[str, Any]:
    try:
        answer = wire.decode(out)
    except wire.WireError:
        raise SandboxFailed(f"the sandbox ended without an answer: {err.decode('utf-8', 'replace')[-500:].strip() or 'no words'}") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise SandboxFailed(f"the sandbox could not be set up: {answer.get('error') if isinstance(answer, dict) else answer}")
    return answer
