# pathlib is slow to import, and this starts anew for every run:
# ruff: noqa: PTH103, PTH108, PTH118, PTH120
"""The process that stands between the caller and the code: it starts the code confined, watches it, ends all of it, and reports.

    caller  <- stdin: what to run, stdout: what came of it ->  supervisor  ->  [first process of new namespaces  ->]  the code

The code sees neither end of the supervisor's own pipes. When the supervisor dies, the kernel ends what is in the namespaces.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from tutelage.sandbox.inside import confine, descendants, kernel, wire

STDIN, STDOUT, STDERR, REQUESTS, REPLIES, REPORT, STATUS = range(7)
"""What the code's process finds open; the last is closed before the code runs."""

TICK = 0.05
"""Seconds between two looks at memory and processes."""
DRAINED = 50
"""Output beyond its limit is thrown away; beyond so many times its limit the code is stopped."""
SPARE_BYTES = 32 << 20
"""What the first process, and pages that are counted twice, may add to the memory."""
_REPORT_BYTES = 1 << 20
_DRAIN_SECONDS = 0.5

Config = dict[str, Any]
Work = Callable[[Config], int]
"""What the confined process does; gives its exit code."""


class Cancelled(BaseException):
    """The caller wants no answer any more."""


class Kept:
    """What is kept of a stream: its beginning or its end."""

    def __init__(self, limit: int, end: bool) -> None:
        self.limit, self.end, self.total, self.data = limit, end, 0, bytearray()

    def add(self, data: bytes) -> None:
        """Take in more."""
        self.total += len(data)
        self.data += data if self.end else data[: max(0, self.limit - len(self.data))]
        if self.end and len(self.data) > 2 * self.limit:
            del self.data[: -self.limit]


class Supervisor:
    """One run."""

    def __init__(self, config: Config) -> None:
        limits = config["limits"]
        self.config, self.limits = config, limits
        self.streams: dict[int, Kept] = {}
        self.child = self.status = self.report = -1
        self.wait_status: int | None = None
        self.stopped: str | None = None
        self.began = time.monotonic()

    def start(self, work: Work) -> None:
        """Start the code."""
        config = _settled(self.config)
        if config["namespaces"]:
            confine.leave_namespaces(owner=os.geteuid() == 0)
        elif kernel.LINUX:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # what the code leaves behind becomes a child of ours
        if kernel.LINUX:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody may look into us or our children through /proc: tests may be there
        stdin, self.report = _memory_file(config, config["stdin"]), _memory_file(config, b"")
        (out, its_out), (err, its_err), (self.status, its_status) = os.pipe(), os.pipe(), os.pipe()
        size = 4 * config["limits"]["output_chars"]  # bytes of one character in UTF-8, at most
        self.streams = {out: Kept(size, end=False), err: Kept(size, end=True)}
        requests, replies = config["pipes"] or (stdin, its_out)
        its = [stdin, its_out, its_err, requests, replies, self.report, its_status]
        self.began = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it is known whom to end
        self.child = os.fork()
        if not self.child:
            _become_first(config, its, work) if config["namespaces"] else _become_code(config, its, work)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for number in {stdin, its_out, its_err, its_status, *(config["pipes"] or ())}:
            os.close(number)

    def watch(self) -> None:
        """Read what the code writes until it ends or has to be stopped."""
        poller = select.poll()
        for number in self.streams:
            poller.register(number, select.POLLIN)
        with suppress(AttributeError, OSError):  # only Linux can wait for a process in this way
            poller.register(os.pidfd_open(self.child), select.POLLIN)
        deadline, look = self.began + self.limits["seconds"], self.began + TICK
        while not self._ended():
            now = time.monotonic()
            if now >= look:
                self._look()
                look = time.monotonic() + TICK
            if now >= deadline:
                self.stopped = "time"
            elif any(stream.total > DRAINED * stream.limit for stream in self.streams.values()):
                self.stopped = "output"
            if self.stopped:
                return
            for number, _ in poller.poll(1000 * max(0.0, min(deadline - now, TICK if kernel.LINUX else TICK / 5))):
                if number in self.streams and not self._read(number):
                    poller.unregister(number)

    def _ended(self) -> bool:
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if pid:
            self.wait_status = status
        return bool(pid)

    def _look(self) -> None:
        pids = descendants.descendants(os.getpid())
        first = 1 if self.config["namespaces"] else 0
        if descendants.threads(pids) - first > self.limits["processes"]:
            self.stopped = "processes"
        elif descendants.memory(pids) > (self.limits["memory_mb"] << 20) + SPARE_BYTES:
            self.stopped = "memory"

    def _read(self, number: int) -> bool:
        data = os.read(number, 1 << 16)
        self.streams[number].add(data)
        return bool(data)

    def end(self) -> None:
        """End everything that still runs."""
        if self.config["namespaces"] and self.wait_status is None and self.child > 0:
            os.kill(self.child, signal.SIGKILL)  # the kernel ends the rest of its namespace with it
            os.waitpid(self.child, 0)
        elif not self.config["namespaces"] and self.child > 0:
            alive = self.wait_status is None or not kernel.LINUX  # else its number may be another's by now
            descendants.end_all(self.child if alive else None)

    def result(self) -> dict[str, object]:
        """What came of it."""
        self._drain()
        seconds = time.monotonic() - self.began
        os.set_blocking(self.status, False)
        said = _read_all(self.status, 1 << 16)
        if said.startswith(b"E"):
            return {"error": said[1:].decode("utf-8", "replace")}
        code = self._exit_code(said)
        if self.stopped is None and self._out_of_cpu(code):
            self.stopped = "cpu"
        out, err = self.streams.values()
        return {
            "exit_code": None if self.stopped else code,
            "stopped": self.stopped,
            "stdout": bytes(out.data),
            "stderr": bytes(err.data[-err.limit :]),
            "beyond": [out.total > out.limit, err.total > err.limit],
            "seconds": seconds,
            "report": os.pread(self.report, _REPORT_BYTES, 0),
        }

    def _drain(self) -> None:
        """Take in what was written before the end; something that could not be ended may hold a pipe open."""
        until = time.monotonic() + _DRAIN_SECONDS
        for number, stream in self.streams.items():
            os.set_blocking(number, False)
            with suppress(BlockingIOError):
                while time.monotonic() < until and stream.total <= DRAINED * stream.limit and self._read(number):
                    pass

    def _exit_code(self, said: bytes) -> int | None:
        if said.startswith(b"S"):
            return os.waitstatus_to_exitcode(int(said[1:]))
        if self.config["namespaces"] or self.wait_status is None:
            return None if self.stopped else -signal.SIGKILL
        return os.waitstatus_to_exitcode(self.wait_status)

    def _out_of_cpu(self, code: int | None) -> bool:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return code == -signal.SIGXCPU or (code == -signal.SIGKILL and used.ru_utime + used.ru_stime >= self.limits["cpu_seconds"])


def _settled(config: Config) -> Config:
    """The configuration with what only the supervisor can know: the user's id, and whether processes can be counted by the kernel."""
    root = kernel.LINUX and os.geteuid() == 0
    user = confine.spare_user() if root and config["own_user"] else None
    if user is not None and config["folder"]:
        os.chown(config["folder"], user, user)
    limits = config["limits"]
    counted = None
    if user is not None:
        counted = limits["processes"]
    elif config["namespaces"] and not root and config["count_processes"]:
        counted = limits["processes"] + 2  # the supervisor and the first process have the same user there
    owner = user if user is not None else 0 if root else confine.INNER_ID
    return {**config, "user": user, "owner": owner, "processes_limit": counted}


def _memory_file(config: Config, content: bytes) -> int:
    """An open file that has no name, at its beginning."""
    if kernel.LINUX:
        number = os.memfd_create("data")
    else:
        path = os.path.join(config["folder"], ".data")
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
    _write_all(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _become_first(config: Config, its: list[int], work: Work) -> NoReturn:
    """The first process of the namespaces: starts the code, and takes everything with it when the code ends."""
    status = its[STATUS]
    try:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)  # which the kernel ignores for a first process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        confine.make_root(config["limits"]["file_mb"], config["owner"])
        code = os.fork()
        if not code:
            _become_code(config, its, work)
        for number in range(max(its) + 1):
            if number != status:
                with suppress(OSError):
                    os.close(number)
        while True:
            pid, ended = os.wait()
            if pid == code:
                os.write(status, b"S%d" % ended)
                os._exit(0)
    except BaseException as error:  # noqa: BLE001 -- this process must never return into the supervisor's own frames
        _fail(status, error)


def _become_code(config: Config, its: list[int], work: Work) -> NoReturn:
    """The process that runs the code."""
    status = its[STATUS]
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.setsid()
        status = _keep_only(its)
        folder = os.environ["HOME"] = os.environ["TMPDIR"] = confine.WORK if config["namespaces"] else config["folder"]
        os.chdir(folder)
        confine.lock({**config, **config["limits"]})
        _write_files(config["files"])
        os.closerange(STATUS if config["pipes"] else REQUESTS, STATUS + 1)
    except BaseException as error:  # noqa: BLE001 -- as above
        _fail(status, error)
    with suppress(BaseException):
        os._exit(work(config) & 0xFF)
    os._exit(1)


def _keep_only(its: list[int]) -> int:
    """Put the open files where they are expected and close all others."""
    import fcntl  # of Unix alone, as everything below is

    moved = [fcntl.fcntl(number, fcntl.F_DUPFD, 64 + len(its)) for number in its]
    for place, number in enumerate(moved):
        os.dup2(number, place, inheritable=place <= STDERR)
    os.closerange(len(its), 65_536)
    return STATUS


def _write_files(files: dict[str, bytes]) -> None:
    for path, content in files.items():
        if folder := os.path.dirname(path):
            os.makedirs(folder, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        _write_all(number, content)
        os.close(number)


def _fail(status: int, error: BaseException) -> NoReturn:
    with suppress(BaseException):
        os.write(status, f"E{type(error).__name__}: {error}".encode()[:4000])
    os._exit(1)


def _read_all(number: int, limit: int = 1 << 62) -> bytes:
    parts: list[bytes] = []
    with suppress(BlockingIOError):
        while limit > 0 and (data := os.read(number, min(limit, 1 << 20))):
            parts.append(data)
            limit -= len(data)
    return b"".join(parts)


def _write_all(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _on_cancel(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is being ended must not be left half-way
    raise Cancelled


def _die_with(caller: int) -> None:
    """Be cancelled when the caller dies. Raises `Cancelled` where it has died already."""
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != caller:
        raise Cancelled


def main(works: dict[str, Work]) -> NoReturn:
    """Read what to do, do it, write what came of it."""
    config: Any = wire.decode(_read_all(0))
    run = Supervisor(config)
    signal.signal(signal.SIGTERM, _on_cancel)
    try:
        try:
            _die_with(config["caller"])
            run.start(works[config["mode"]])
            _die_with(config["caller"])  # again: the kernel forgets it where a process gets a user namespace
            run.watch()
        finally:
            run.end()
        _write_all(1, wire.encode(run.result()))
    except Cancelled:
        if config["folder"]:
            import shutil  # slow to import, and seldom needed: else the caller removes it

            shutil.rmtree(config["folder"], ignore_errors=True)
        os._exit(143)
    except OSError as error:
        _write_all(1, wire.encode({"error": f"{type(error).__name__}: {error}"}))
    os._exit(0)
