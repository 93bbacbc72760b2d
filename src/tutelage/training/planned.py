"""The plan of a training that is about to begin: what its rows come to, what is noted, what is said where it would not fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tutelage.errors import InputError
from tutelage.training.base import Base
from tutelage.training.machine import own_memory, this_machine
from tutelage.training.memory import PROCESS, Case, Rows
from tutelage.training.model_facts import read_model_facts
from tutelage.training.planner import Plan, make_plan

if TYPE_CHECKING:
    from tutelage.training.chat import TokenRow
    from tutelage.training.supervised_job import SupervisedSettings

_LOOKED_AT = 200
"""Rows whose beginnings are compared."""


def rows_of(rows: Sequence[TokenRow], settings: SupervisedSettings, *, sides: int = 1) -> Rows:
    """What a step of supervised training has at most. rows: in the order of the pairs, where there are two `sides`."""
    if not rows:
        return Rows((settings.max_length,) * settings.per_device_train_batch_size * sides, known=False)
    size = min(settings.per_device_train_batch_size * sides, len(rows))
    lengths = sorted((min(len(row.ids), settings.max_length) for row in rows), reverse=True)
    learned = sum(sum(row.mask) for row in rows) / max(1, sum(len(row.ids) for row in rows))
    batches = -(-len(rows) // (sides * settings.per_device_train_batch_size * settings.gradient_accumulation_steps))
    steps = settings.max_steps or round(settings.num_train_epochs * batches)
    return Rows(tuple(lengths[:size]), _in_common(rows), learned, max(1, steps))


def _in_common(rows: Sequence[TokenRow]) -> int:
    """How many tokens all rows begin with."""
    first, shared = rows[0].ids, len(rows[0].ids)
    for row in rows[1:_LOOKED_AT]:
        same = next((place for place, (one, other) in enumerate(zip(first, row.ids, strict=False)) if one != other), None)
        shared = min(shared, len(row.ids) if same is None else same)
    return shared if len(rows) > 1 else 0


def plan_of(base: Base, case: Case) -> Plan | None:
    """The plan of a training on this machine, from a process as large as this one; None where the model's description says too little."""
    try:
        process = own_memory()
    except OSError:
        process = PROCESS
    try:
        return make_plan(read_model_facts(str(base.folder)), case, this_machine(), process=process)
    except InputError:
        return None


def noted(plan: Plan | None) -> dict[str, JsonValue]:
    """The forecast beside which the measured peak is noted, and the warning where there is one."""
    if plan is None:
        return {}
    warning = plan.warning()
    return {"memory_planned_mb": plan.now.peak >> 20, **({"memory_warning": warning} if warning else {})}


def warn(plan: Plan | None) -> None:
    """Say on standard error that a training would not fit, before it begins."""
    if plan is not None and (warning := plan.warning()):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
