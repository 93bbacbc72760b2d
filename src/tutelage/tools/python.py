"""A tool that runs Python in the sandbox."""

from __future__ import annotations

from tutelage.errors import ToolError
from tutelage.sandbox import DEFAULT_LIMITS, SandboxFailed, SandboxLimits, SandboxResult, run_python
from tutelage.tool import Tool, tool

_LINES = 15
_SPARE_SECONDS = 20.0
"""For the start of the sandbox, and for the wait until others have ended."""


def python_tool(limits: SandboxLimits = DEFAULT_LIMITS, name: str = "python") -> Tool:
    """A tool `python(code)` for a model: each call is a program of its own, in a fresh folder; nothing is kept from call to call."""

    async def run(code: str) -> str:
        """Run a Python program and see what it prints. Each call starts afresh. Only the standard library is there, and no network.

        Args:
            code: The whole program. Use print to see a value.
        """
        return await observe(code, limits)

    return tool(run, name=name, seconds=limits.seconds + _SPARE_SECONDS, max_chars=2 * limits.output_chars + 1000)


async def observe(code: str, limits: SandboxLimits) -> str:
    """What a model is shown of a run. Raises `ToolError` where the sandbox itself fails."""
    try:
        return shown_result(await run_python(code, limits=limits), limits)
    except SandboxFailed as error:
        raise ToolError(f"the program could not be run: {error}") from error


def shown_result(result: SandboxResult, limits: SandboxLimits) -> str:
    """What was printed, then why it was stopped or the last lines of the error."""
    parts = [result.stdout.rstrip("\n")] if result.stdout.strip() else []
    if result.truncated:
        parts.append(f"[the output was longer than {limits.output_chars} characters and is cut]")
    errors = result.stderr.strip().splitlines()
    if errors:
        parts.append("\n".join(errors[-_LINES:]))
    if result.stopped:
        parts.append(f"[stopped: a limit was reached ({result.stopped.value}); {limits.seconds:g} s and {limits.memory_mb} MB are allowed]")
    elif result.exit_code and not errors:
        parts.append(f"[ended with exit code {result.exit_code}]")
    return "\n".join(parts) or "(nothing was printed; use print to see a value)"
