"""A sandbox for Python that nobody vouches for: `run_python`, and `run_tests`, which the code under test cannot forge."""

from tutelage.sandbox.abilities import sandbox_abilities
from tutelage.sandbox.records import (
    DEFAULT_LIMITS,
    Outcome,
    SandboxAbilities,
    SandboxFailed,
    SandboxLimits,
    SandboxResult,
    Stopped,
    TestsResult,
)
from tutelage.sandbox.run import run_python, run_tests

__all__ = [
    "DEFAULT_LIMITS",
    "Outcome",
    "SandboxAbilities",
    "SandboxFailed",
    "SandboxLimits",
    "SandboxResult",
    "Stopped",
    "TestsResult",
    "run_python",
    "run_tests",
    "sandbox_abilities",
]
