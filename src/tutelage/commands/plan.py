"""`tutelage plan`: the memory of each training of a study, and the levers that make it fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.experience.views import reference_rows
from tutelage.learner import Learner
from tutelage.learners.policy_plan import case_of
from tutelage.learners.policy_settings import PolicySettings
from tutelage.study.config import load_study
from tutelage.study.run import Study
from tutelage.suggest import unknown
from tutelage.training.base import find_converted, load_tokenizer
from tutelage.training.machine import Machine, this_machine
from tutelage.training.memory import Case, Parts
from tutelage.training.model_facts import ModelFacts, model_facts_of
from tutelage.training.planned import rows_of
from tutelage.training.planner import RELEARNS, LeverSet, Plan, gib, lines_of, make_plan, said, supervised_case
from tutelage.training.row_files import read_preference_rows, read_sft_rows
from tutelage.training.rows import SFTRow
from tutelage.training.step_time import EFFICIENCY, measured_rate
from tutelage.training.supervised_job import DPOSettings, SupervisedSettings

_PARTS = {
    "process": "the process itself",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "kept": "copies of what learns",
    "activations": "activations",
    "loss": "the loss",
    "sampler": "what samples",
    "lost": "lost by the allocator",
}


@dataclass(frozen=True)
class Training:
    """One training of an arm. rows: what is known of what it learns from."""

    arm: str
    learner: str
    case: Case
    rows: str


def print_plans(study: Path, *, arm: str | None, changes: Sequence[str], memory: float | None, as_json: bool) -> None:
    """Plan and print; raises `InputError` for a study, an arm or a model that cannot be read."""
    loaded = load_study(study, changes=changes, check_models=False)
    arms = _chosen(loaded, arm)
    machine = _with_memory(this_machine(), memory)
    trainings = {name: list(trainings_of(name, learner, loaded)) for name, learner in arms.items()}
    facts = _facts(loaded.agent) if any(trainings.values()) else None
    plans = [(one, make_plan(facts, one.case, machine)) for own in trainings.values() for one in own if facts is not None]
    idle = [name for name, own in trainings.items() if not own]
    if as_json:
        print(json.dumps({"machine": _described(machine), "plans": [_data(*each) for each in plans], "do_not_train": idle}, indent=1))
        return
    console = Console()
    if facts is not None:
        console.print(f"{escape(facts.name)}: {facts.parameters:,} parameters; {_room(machine)}")
    for training, plan in plans:
        _print(console, training, plan)
    for lever, why in (plans[0][1].refused if plans else {}).items():
        console.print(f"not here: {escape(lever)} ({escape(why)})")
    for name in idle:
        console.print(f"\n{escape(name)}: does not train weights; nothing to plan")
    if not arms:
        console.print("the study has no learners; nothing to plan")


def trainings_of(arm: str, learner: Learner, study: Study) -> Iterator[Training]:
    """The trainings of weights in what an arm does: those of its parts, in their order."""
    for name, part in getattr(learner, "parts", ()):
        yield from trainings_of(f"{arm}.{name}", part, study)
    first = getattr(learner, "imitation", None)
    if first is not None:
        yield from trainings_of(f"{arm}.imitation", first, study)
    settings, options = getattr(learner, "settings", None), getattr(learner, "options", None)
    if isinstance(settings, PolicySettings):
        words = "episodes of one turn, replies as long as they may be"
        yield Training(arm, learner.name, case_of(study.agent, settings, study.train), words)
    elif isinstance(options, SupervisedSettings):
        yield _supervised(arm, learner, options, study)


def _supervised(arm: str, learner: Learner, options: SupervisedSettings, study: Study) -> Training:
    sides = 2 if isinstance(options, DPOSettings) else 1
    rows = _rendered(options, study)
    validates = bool(getattr(options, "validation", 0)) and len(study.train) > 1
    case = supervised_case(options, rows_of(rows, options, sides=sides), validates=validates)
    longest = max(case.rows.lengths)
    there = f"{len(rows) // sides} {'pairs' if sides > 1 else 'rows'}, the longest of {longest} tokens"
    return Training(arm, learner.name, case, there if rows else f"rows are not there yet: {longest} tokens are taken (max_length)")


def _rendered(options: SupervisedSettings, study: Study) -> list[Any]:
    """The token rows that will be trained on, pairs side by side, where they and the tokenizer are there already."""
    source, file = getattr(options, "source", None), getattr(options, "file", None)
    base = find_converted(study.agent.model_name)
    if base is None or source not in ("reference", "file"):
        return []
    try:
        from tutelage.training.chat import render_preference, render_turns

        tokenizer = load_tokenizer(base)
        if isinstance(options, DPOSettings):
            return [side for row in read_preference_rows(str(file)) for side in render_preference(tokenizer, row)]
        return [side for row in _sft_rows(source, file, study) for side in render_turns(tokenizer, row)]
    except InputError:  # the training will say what is wrong; or there is no torch to render with
        return []


def _sft_rows(source: str, file: str | None, study: Study) -> Sequence[SFTRow]:
    if source == "file":
        return read_sft_rows(str(file))
    return [row for task in study.train for row in reference_rows([task], study.agent)]


def _chosen(study: Study, arm: str | None) -> dict[str, Learner]:
    if arm is None:
        return dict(study.learners)
    if arm not in study.learners:
        raise InputError(unknown("an arm of this study that learns", arm, study.learners), field="--arm")
    return {arm: study.learners[arm]}


def _facts(agent: Agent) -> ModelFacts:
    return model_facts_of(agent.model_name)


def _with_memory(machine: Machine, gigabytes: float | None) -> Machine:
    if gigabytes is None:
        return machine
    return replace(machine, memory=round(gigabytes * 2**30))


def _room(machine: Machine) -> str:
    device = f"the GPU {machine.name}" if machine.kind == "cuda" else "a CPU"
    return f"{device} with {gib(machine.memory)} for a training"


# -- words


def _print(console: Console, training: Training, plan: Plan) -> None:
    console.print(f"\n[bold]{escape(training.arm)}[/bold] ({escape(training.learner)}): {escape(training.rows)}")
    for words in (plan.problem and str(plan.problem), plan.facts.assumption):
        if words:
            console.print(f"note: {escape(words)}")
    console.print("Peak, with the settings as they are:")
    console.print(_parts_table(plan.now.parts))
    console.print("Sets of levers (time is an estimate; * learns something else):")
    console.print(_sets_table(plan))
    console.print(escape(_recommended(plan)))


def _parts_table(parts: Parts) -> Table:
    table = Table("part", Column("MiB", justify="right"))
    for name, words in _PARTS.items():
        if size := getattr(parts, name):
            table.add_row(words, f"{size / 2**20:,.0f}")
    table.add_row("together", f"{parts.total / 2**20:,.0f}", style="bold")
    return table


def _sets_table(plan: Plan) -> Table:
    rate = measured_rate() * EFFICIENCY if plan.machine.kind == "cpu" else None
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("peak MiB", "fits", "time", "s a step")]
    table = Table(Column("levers", overflow="fold"), *numbers)
    for one in plan.worth_a_look:
        mark = " *" if one.relearns else ""
        seconds = "" if rate is None else f"{one.operations / rate:.1f}"
        table.add_row(escape(said(one.changes)) + mark, f"{one.peak / 2**20:,.0f}", "yes" if one.fits else "no", f"{one.time:.2f}", seconds)
    return table


def _recommended(plan: Plan) -> str:
    if plan.best is None:
        least = gib(plan.smallest.peak)
        return f"No set of levers is forecast to fit: the least is {least}. Take a smaller model, or shorter rows (max_length)."
    if not plan.best.changes:
        return "It fits as it is."
    lines = "\n".join(f"  {line}" for line in lines_of(plan.best.changes))
    relearns = sorted(RELEARNS & plan.best.changes.keys())
    warning = f" ({', '.join(relearns)}: learns something else; no set that learns the same fits)" if relearns else ""
    return f"Fits with{warning}, at {plan.best.time:.2f} times the time a step:\n{lines}"


# -- data


def _described(machine: Machine) -> dict[str, Any]:
    return {**asdict(machine), "packages": {name: ".".join(map(str, found)) for name, found in machine.packages.items()}}


def _data(training: Training, plan: Plan) -> dict[str, Any]:
    return {
        "arm": training.arm,
        "learner": training.learner,
        "rows": training.rows,
        "model": asdict(plan.facts),
        "assumption": plan.facts.assumption,
        "problem": plan.problem and str(plan.problem),
        "now": _set_data(plan.now),
        "sets": [_set_data(one) for one in plan.sets],
        "refused": dict(plan.refused),
        "recommended": plan.best and _set_data(plan.best),
    }


def _set_data(one: LeverSet) -> dict[str, Any]:
    changes = {name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value for name, value in one.changes.items()}
    return {
        "levers": changes,
        "peak_bytes": one.peak,
        "parts_bytes": asdict(one.parts),
        "time": round(one.time, 4),
        "fits": one.fits,
        "learns_something_else": one.relearns,
    }
