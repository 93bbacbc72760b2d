"""What the learners noted of their own work, as tables: tasks solved by attempt, and everything else by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from tutelage.study.results import ArmReport, Report
from tutelage.study.tables import NONE, Table, count

SOLVED = "solved_by_attempt"
"""The fact that holds how many training tasks were solved within 1, 2, ... attempts; `practice_tasks` is how many there were."""
TASKS = "practice_tasks"
ASK_CURVE = "ask_curve"
"""The fact that holds advice rate and scores by threshold; a plot shows it."""


def practice_tables(report: Report) -> tuple[Table, ...]:
    """The tables that have something in them; a fact of a part of a curriculum (`reflexion.solved_by_attempt`) counts as the arm's."""
    return tuple(table for table in (_solved(report), _noted(report)) if table is not None)


def _solved(report: Report) -> Table | None:
    rows = {arm.name: solved for arm in report.arms if (solved := _numbers(fact_of(arm.facts, SOLVED)))}
    if not rows:
        return None
    most = max(len(solved) for solved in rows.values())
    return Table(
        title="Training tasks solved while practising, within so many attempts",
        columns=("arm", "tasks", *(f"{n}" for n in range(1, most + 1))),
        rows=tuple((arm.name, _cell(fact_of(arm.facts, TASKS)), *_row(rows[arm.name], most)) for arm in report.arms if arm.name in rows),
        pairs=True,
    )


def _noted(report: Report) -> Table | None:
    rows = [(arm.name, noted) for arm in report.arms if (noted := "; ".join(_others(arm)))]
    if not rows:
        return None
    return Table(title="What the learners noted, where it is not 0", columns=("arm", "noted"), rows=tuple(rows), words=True)


def _others(arm: ArmReport) -> Iterator[str]:
    """Each fact with its name; those of a part of a curriculum follow the part's name."""
    last = ""
    for name, value in arm.facts.items():
        part, _, fact = name.rpartition(".")
        if fact in (SOLVED, TASKS, ASK_CURVE) or not _says_something(value):
            continue
        yield f"{part}: {_said(fact, value)}" if part != last and part else _said(fact, value)
        last = part


def _says_something(value: JsonValue) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _said(fact: str, value: JsonValue) -> str:
    words = fact.replace("_", " ")
    return words if value is True else f"{words} {_cell(value)}" if not isinstance(value, str) else f"{words}: {value}"


def fact_of(facts: Mapping[str, JsonValue], name: str) -> JsonValue:
    """The learner's fact of that name, or that of a part of a curriculum."""
    return next((value for key, value in facts.items() if key.rpartition(".")[2] == name), None)


def _numbers(value: JsonValue) -> list[float]:
    return [item for item in value if isinstance(item, int | float)] if isinstance(value, list) else []


def _row(solved: list[float], most: int) -> list[str]:
    return [_cell(solved[n] if n < len(solved) else None) for n in range(most)]


def _cell(value: JsonValue) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3f}"
    if isinstance(value, int | float):
        return count(value)
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    return ", ".join(f"{key} {_cell(item)}" for key, item in value.items() if item)
