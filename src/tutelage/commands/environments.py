"""Listing, checking and playing environments: the bodies of `tutelage env list | check | play`.

An environment is named as in a study file: a built-in one's name, or file.py:Class. A study file may be named as well: then its environment
is meant, on its training tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tutelage.agent import Agent, Limits
from tutelage.commands.play import Person, play
from tutelage.environment import EnvironmentFactory
from tutelage.environments.check import CheckReport, check_environment
from tutelage.environments.check_bench import CHECKS, Finding, Severity
from tutelage.errors import InputError
from tutelage.graders.rules import FromEnvironment
from tutelage.python_file import load_attribute
from tutelage.records import Message, Task
from tutelage.registry import ENVIRONMENTS, TASK_SOURCES, load
from tutelage.study.build import build_environment, generate_tasks
from tutelage.study.config import load_study
from tutelage.tasks import read_tasks

STEPS = 100
"""Turns that a person has, where no study says it."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def print_environments() -> None:
    """Print the built-in environments: what they are, and the options of their tasks."""
    table = Table("name", "what it is", Column("options of its tasks", overflow="fold"))
    for name, place in ENVIRONMENTS.items():
        kind = load(place)
        about = (inspect.getdoc(kind) or "").partition("\n")[0]
        options = _options_of(load(TASK_SOURCES[name])) if name in TASK_SOURCES else ()
        table.add_row(name, escape(about), escape(", ".join(options)) or "-")
    Console().print(table)


def check_named(
    name: str, *, options: Sequence[str] = (), tasks: str | None = None, count: int = 5, steps: int = 20, seed: int = 0
) -> CheckReport:
    """Check an environment and print what was found. Raises `InputError` where it cannot be loaded.

    options: `key=value`, of its tasks or, where they have no such option, of the environment. tasks: a task file, or file.py:function
    called with (count, seed), in place of the environment's own. count: on how many tasks.
    """
    factory, chosen = load_environment(name, options=options, tasks=tasks, count=count, seed=seed)
    report = check_environment(factory, chosen, steps=steps, seed=seed)
    print_check(name, report)
    return report


def play_named(name: str, *, options: Sequence[str] = (), tasks: str | None = None, seed: int = 0) -> None:
    """Let a person play the first task that the seed gives, with the environment's own tools and grade."""
    factory, chosen = load_environment(name, options=options, tasks=tasks, count=1, seed=seed)
    play(Agent(model=Person(), limits=Limits(steps=STEPS)), chosen[0], FromEnvironment(), factory)


def load_environment(
    name: str, *, options: Sequence[str] = (), tasks: str | None = None, count: int = 1, seed: int = 0
) -> tuple[EnvironmentFactory, tuple[Task, ...]]:
    """What makes the environment, and tasks for it. Raises `InputError`."""
    if Path(name).suffix in (".yaml", ".yml"):
        study = load_study(Path(name), changes=options, check_models=False)
        if study.environment is None:
            raise InputError("this study names no environment", file=name, field="environment")
        return study.environment, tuple(study.train[:count])
    source = tasks if tasks is not None else name if name in TASK_SOURCES else None
    values = _read_options(options)
    for_tasks = {key: value for key, value in values.items() if source and key in _options_of(_task_source(source))}
    rest = {key: value for key, value in values.items() if key not in for_tasks}
    factory = build_environment({name: rest} if rest else name, Path())
    return factory, _tasks(source, for_tasks, count, seed)


def _read_options(options: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"write an option as key=value, not `{option}`", field="--option")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"the value of `{key}` is not valid YAML: {text}", field="--option") from None
    return values


def _task_source(source: str) -> Any:
    """The function that makes tasks; None where `source` is a file of tasks."""
    if source in TASK_SOURCES:
        return load(TASK_SOURCES[source])
    return load_attribute(source) if ".py:" in source else None


def _options_of(make: Any) -> tuple[str, ...]:
    """The names of a task source's options: what it takes beside n and seed."""
    return () if make is None else tuple(name for name in inspect.signature(make).parameters if name not in ("n", "seed"))


def _tasks(source: str | None, options: dict[str, Any], count: int, seed: int) -> tuple[Task, ...]:
    if source is None:  # an environment may need no more than to be begun
        return (Task(messages=(Message(role="user", content="Begin."),)),)
    if source not in TASK_SOURCES and ".py:" not in source:
        return read_tasks(source, limit=count)
    return generate_tasks({source: options}, count, 0, seed, Path())[0]


def print_check(name: str, report: CheckReport) -> None:
    """Print one line for each check, the findings below it, and the verdict."""
    console = Console()
    table = Table("check", "result", Column("what was found", overflow="fold"), title=f"Environment {escape(name)}", title_justify="left")
    for check, about in CHECKS.items():
        found = [finding for finding in report.findings if finding.check == check]
        if not found:
            result = "[green]ok[/green]" if check in report.checked else "[dim]not checked[/dim]"
            table.add_row(check, result, f"[dim]{escape(about)}[/dim]")
        for finding in found:
            colour = _COLOURS[finding.severity]
            table.add_row(check, f"[{colour}]{finding.severity.value}[/{colour}]", escape(_said(finding, report.tasks)))
    console.print(table)
    console.print(_verdict(report), soft_wrap=True)


def _said(finding: Finding, tasks: int) -> str:
    if not finding.tasks or tasks == 1:
        return finding.words
    some = ", ".join(finding.tasks[:3]) + (", ..." if len(finding.tasks) > 3 else "")
    return f"{finding.words} (in {len(finding.tasks)} of {tasks} tasks: {some})"


def _verdict(report: CheckReport) -> str:
    times = [f"{what} {value:.1f} ms" for what, value in (("reset", report.reset_ms), ("step", report.step_ms)) if value is not None]
    errors = sum(finding.severity is Severity.ERROR for finding in report.findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in report.findings)
    verdict = "[bold green]Fit to learn in[/bold green]" if report.ok else "[bold red]Not fit to learn in[/bold red]"
    return f"{verdict}: {errors} errors, {warnings} warnings, on {report.tasks} tasks. {', '.join(times)}"
