"""Every exception that tutelage raises on purpose.

TutelageError
├── InputError              what the user gave is wrong: names the file, the line, the field and the way out (exit code 2)
│   ├── RowError            a row to learn from does not survive the chat template (in tutelage.training.chat_template)
│   ├── SealedError         the test split would leak: it overlaps with training, or a learner reached for it
│   └── MissingExtra        an optional package is absent: names the command that installs it
├── ModelError              the model gave no usable reply
│   ├── ModelUnavailable    it cannot be reached or refuses us: every further call would fail too, so the run stops
│   └── ModelFailed         this one call failed after its retries: recorded on the episode, which stays ungraded
├── ToolError               raised by a tool to tell the model what went wrong: an observation, never a crash
├── GraderError             the grader itself failed: the episode stays ungraded, the agent is not blamed
├── SandboxFailed           the sandbox itself could not run (in tutelage.sandbox): code under test is not blamed for it
├── Diverged                a training went wrong (in tutelage.training.divergence): the bad step is not applied, the last good weights stay
├── BudgetExceeded          a cap would be passed by the next call: what is done is kept, running again continues
└── StoreError              experience cannot be written or read: disk full, locked, from a newer version
"""

from __future__ import annotations

from pathlib import Path


class TutelageError(Exception):
    """Root of all errors raised on purpose."""


class InputError(TutelageError):
    """What the user gave is wrong; the message says where and what to do instead."""

    def __init__(self, message: str, *, file: str | Path | None = None, line: int | None = None, field: str | None = None) -> None:
        self.message, self.file, self.line, self.field = message, file, line, field
        super().__init__(self._where() + message)

    def _where(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = [part for part in (place, self.field and f"field `{self.field}`") if part]
        return ": ".join(parts) + ": " if parts else ""


class SealedError(InputError):
    """The test split would leak into learning."""


class MissingExtra(InputError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, install: str, *, why: str) -> None:
        super().__init__(f"{why} needs the package `{package}`, which is not installed. Install it with: {install}")


class ModelError(TutelageError):
    """The model gave no usable reply."""


class ModelUnavailable(ModelError):
    """The model cannot be reached or refuses us (connection, authorisation, unknown name): the run stops."""


class ModelFailed(ModelError):
    """One call failed after its retries (timeout, rate limit, server error, unreadable reply)."""


class ToolError(TutelageError):
    """Raised inside a tool: its text becomes an observation for the model."""


class GraderError(TutelageError):
    """A grader failed; the episode stays ungraded."""


class BudgetExceeded(TutelageError):
    """The next call would pass a cap of the budget."""


class StoreError(TutelageError):
    """Experience cannot be written or read."""
