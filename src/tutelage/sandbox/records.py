"""What goes into the sandbox and what comes out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from tutelage.errors import InputError, TutelageError
from tutelage.records import Record


class SandboxFailed(TutelageError):
    """The sandbox itself could not do its work (no memory or processes are left, Python cannot be started); the code is not blamed."""


class Stopped(StrEnum):
    """Why the sandbox ended a program that would have gone on."""

    TIME = "time"
    """It ran longer than allowed."""
    CPU = "cpu"
    """It used more processor time than allowed."""
    MEMORY = "memory"
    """Its processes together held more memory than allowed. (One process that asks for too much gets a MemoryError instead.)"""
    PROCESSES = "processes"
    """It started more processes and threads than allowed. (Where the kernel counts them, starting one too many fails instead.)"""
    OUTPUT = "output"
    """It wrote far more than is kept."""


class Outcome(StrEnum):
    """How tests ended."""

    PASSED = "passed"
    """Every test was run to its end, and the code was called."""
    ASSERTION = "assertion"
    """An assertion does not hold."""
    RAISED = "raised"
    """A function of the code raised an exception that the tests do not expect."""
    CODE = "code"
    """The code does not load, or lacks the function."""
    ENDED = "ended"
    """The code's process ended before the tests did, or answered with something else than data."""
    REFUSED = "refused"
    """A function returned something else than plain data."""
    STOPPED = "stopped"
    """A limit was reached."""
    NO_CALL = "no_call"
    """The tests ended without calling the code once: they say nothing about it."""
    ERROR = "error"
    """The tests raised something else than an AssertionError, for instance on a result of the wrong type."""
    TESTS = "tests"
    """The tests themselves are broken: they are no Python, or end the program."""


class SandboxLimits(Record):
    """Limits on one run.

    seconds: of real time. cpu_seconds: of processor time of each process, rounded up to whole seconds. memory_mb: of address space of each
    process, and of memory that all of them hold. output_chars: kept of standard output (its beginning) and of standard error (its end).
    processes: processes and threads at once, the first included. file_mb: size of one file; four times as much for all.
    """

    seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    cpu_seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    memory_mb: int = Field(default=512, ge=64)
    output_chars: int = Field(default=20_000, ge=1)
    processes: int = Field(default=16, ge=1)
    file_mb: int = Field(default=16, ge=1)

    @field_validator("*", mode="wrap")
    @classmethod
    def _say_which(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return check(value)
        except ValueError as error:
            raise InputError(f"{_reason(error)}, and is {value!r}", field=f"limits.{info.field_name}") from None


def _reason(error: ValueError) -> str:
    details = getattr(error, "errors", lambda: [{"msg": str(error)}])()
    return str(details[0]["msg"]).replace("Input should", "it should")


DEFAULT_LIMITS = SandboxLimits()


class SandboxResult(Record):
    """What a program did.

    exit_code: None where it was stopped; the negative number of the signal that ended it, as `subprocess` has it. truncated: stdout or
    stderr were longer than what is kept. seconds: of real time, without the start of the sandbox.
    """

    exit_code: int | None
    stdout: str = ""
    stderr: str = ""
    stopped: Stopped | None = None
    seconds: float = 0.0
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """It ended by itself and without an error."""
        return self.stopped is None and self.exit_code == 0


class TestsResult(Record):
    """What tests said about code.

    words: what is wrong, with the tests' line. line: of the tests, from 1. statement: that line's text. call: the last call of the code
    with what came of it. calls: how many there were. stopped: which limit was reached.
    """

    __test__ = False  # not a class of tests, whatever its name suggests to pytest

    outcome: Outcome
    words: str = ""
    line: int | None = None
    statement: str = ""
    call: str = ""
    calls: int = 0
    stopped: Stopped | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Every test holds."""
        return self.outcome is Outcome.PASSED


class SandboxAbilities(Record):
    """What this machine lets the sandbox do, found out by trying; `missing` says why something is not there.

    limits: on processor time, memory, file size and open files. namespaces: a root, process ids and a network of its own. own_user: a
    user that nobody else is (only root can give one). seccomp: a filter of system calls. landlock: rules on files, used where there are
    no namespaces. count_processes: the kernel counts the sandbox's processes and refuses one too many.
    """

    system: str
    limits: bool = False
    namespaces: bool = False
    own_user: bool = False
    seccomp: bool = False
    landlock: bool = False
    count_processes: bool = False
    missing: Annotated[dict[str, str], Field(default_factory=dict)]

    @property
    def network_closed(self) -> bool:
        """No connection can be opened, to this machine neither."""
        return self.namespaces or self.seccomp

    @property
    def files_hidden(self) -> bool:
        """Files of the machine cannot be read or written, beside Python and the machine's libraries."""
        return self.namespaces or self.landlock

    @property
    def signals_closed(self) -> bool:
        """No process outside can be reached by signals."""
        return self.namespaces or self.seccomp or self.own_user

    @property
    def leaves_nothing(self) -> bool:
        """Whatever a program leaves running is ended with it: by the kernel, or by following who started whom (Linux)."""
        return self.namespaces or self.system == "linux"

    @property
    def rows(self) -> tuple[tuple[str, bool, str], ...]:
        """(what it keeps from happening, whether it does, why not) for a table."""
        why = "; ".join(f"{name}: {reason}" for name, reason in self.missing.items())
        return (
            ("too much time, memory, output", self.limits, why),
            ("the network", self.network_closed, why),
            ("other files", self.files_hidden, why),
            ("signals to other processes", self.signals_closed, why),
            ("processes left behind", self.leaves_nothing, why),
            ("fork bombs, refused by the kernel", self.count_processes, why),
        )
