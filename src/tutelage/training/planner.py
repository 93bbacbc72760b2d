"""A plan of a training: its peak of memory by part, what each set of levers would make of it, and the cheapest set that fits the machine.

A pure function of a model's sizes, rows, settings and a machine. What learns the same comes first: sets that learn something else (LoRA
in place of all weights, weights or state in fewer bits, products in 16 bits) are recommended only where no other fits. Of those the
quickest is taken, and of equals the one that changes least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from tutelage.errors import InputError
from tutelage.training.activations import numbers_of
from tutelage.training.levers import problem_of, trains_together
from tutelage.training.machine import Machine
from tutelage.training.memory import PASS_TOKENS, PROCESS, Case, Parts, Rows, peak_parts
from tutelage.training.model_facts import ModelFacts
from tutelage.training.policy_gradient import PolicyGradient
from tutelage.training.settings import Lora, TrainSettings
from tutelage.training.step_time import step_operations
from tutelage.training.supervised_job import DPOSettings, SupervisedSettings

HEADROOM = 0.1
"""This share of the memory is left over where a plan is said to fit: a forecast may be that far out, and others need memory too."""
SMALLEST_PASS = 256
"""Passes are not made smaller than so many tokens: on a CPU they would be slower, and save little."""
RELEARNS = frozenset({"lora", "load_in_4bit", "optim", "dtype"})
"""Levers that change what is learned."""
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class LeverSet:
    """Levers to pull: setting -> value (none: as it is now). time: of a step, relative to now. operations: see `step_time.py`."""

    changes: Changes
    parts: Parts
    time: float
    fits: bool
    operations: float

    @property
    def peak(self) -> int:
        """Bytes."""
        return self.parts.total

    @property
    def relearns(self) -> bool:
        """Whether something else is learned than now."""
        return bool(RELEARNS & self.changes.keys())

    @property
    def price(self) -> tuple[bool, float, int]:
        """What sets are ranked by, the best first."""
        return self.relearns, self.time, len(self.changes)


@dataclass(frozen=True)
class Plan:
    """now: as the settings are. sets: all that can work here, now among them, by their price. refused: levers that cannot, and why.

    best: the cheapest set that fits; None: none does. problem: what is wrong with the settings themselves.
    """

    facts: ModelFacts
    case: Case
    machine: Machine
    now: LeverSet
    sets: tuple[LeverSet, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    best: LeverSet | None = None
    problem: InputError | None = None

    @property
    def smallest(self) -> LeverSet:
        """The set with the lowest peak."""
        return min(self.sets, key=lambda one: one.peak)

    @property
    def worth_a_look(self) -> tuple[LeverSet, ...]:
        """Now, and the sets to which no other is better in memory, time and what is learned."""
        return (self.now, *(one for one in self.sets if one.changes and not any(_better(other, one) for other in self.sets)))

    def warning(self) -> str | None:
        """What to say before a training that would not fit; None where it should."""
        if self.now.peak <= self.machine.memory or not self.machine.memory:
            return None
        where = "the GPU" if self.machine.kind == "cuda" else "this machine"
        needs = f"training is forecast to need {gib(self.now.peak)} at its peak, and {where} has {gib(self.machine.memory)}"
        if self.best is None:
            return f"{needs}; no set of levers is forecast to fit (least: {gib(self.smallest.peak)} with {said(self.smallest.changes)})"
        return f"{needs}; these would fit ({gib(self.best.peak)}, {self.best.time:.2f} times the time a step): {said(self.best.changes)}"


def supervised_case(settings: SupervisedSettings, rows: Rows, *, validates: bool = False) -> Case:
    """The case of SFT or DPO."""
    kind = "dpo" if isinstance(settings, DPOSettings) else "sft"
    shares = settings.share_prefixes and trains_together(settings)
    return Case(kind, settings, rows, max_tokens=settings.max_tokens_per_micro_batch, shares=shares, validates=validates)  # type: ignore[arg-type]


def policy_case(settings: TrainSettings, policy: PolicyGradient, rows: Rows, *, sampler: bool = False) -> Case:
    """The case of reinforcement. sampler: see `Case`."""
    shares = policy.share_prefixes and trains_together(settings)
    return Case("policy", settings, rows, max_tokens=policy.max_tokens_per_micro_batch, shares=shares, sampler=sampler)


def make_plan(facts: ModelFacts, case: Case, machine: Machine, *, process: int = PROCESS) -> Plan:
    """The plan. process: see `memory.peak_parts`."""
    now = _set(facts, case, machine, process, {}, None)
    sets = [now]
    for changes in _candidates(facts, case, machine):
        changed = _changed(case, changes)
        if changes and problem_of(changed.settings, machine) is None:
            sets.append(_set(facts, changed, machine, process, changes, now.operations))
    fitting = [one for one in sets if one.fits]
    best = min(fitting, key=lambda one: one.price) if fitting else None
    refused = dict(_refused(case.settings, machine))
    ranked = tuple(sorted(sets, key=lambda one: one.price))
    return Plan(facts, case, machine, now, ranked, refused, best, problem_of(case.settings, machine))


def _set(facts: ModelFacts, case: Case, machine: Machine, process: int, changes: Changes, operations: float | None) -> LeverSet:
    parts, own = peak_parts(facts, case, machine, process=process), step_operations(facts, case, machine)
    return LeverSet(changes, parts, own / (operations or own), parts.total <= (1 - HEADROOM) * machine.memory, own)


def _changed(case: Case, changes: Changes) -> Case:
    settings = case.settings.model_copy(update={name: value for name, value in changes.items() if name in type(case.settings).model_fields})
    return replace(case, settings=settings, max_tokens=changes.get("max_tokens_per_micro_batch", case.max_tokens))


def _candidates(facts: ModelFacts, case: Case, machine: Machine) -> Iterator[Changes]:
    """All sets of levers that make sense here, the empty one among them."""
    levers = [[{}, *choices] for choices in _choices(facts, case, machine)]
    for chosen in product(*levers):
        yield {name: value for part in chosen for name, value in part.items()}


def _choices(facts: ModelFacts, case: Case, machine: Machine) -> list[Sequence[Changes]]:
    """For each lever that is not pulled yet, how it could be."""
    settings, on_cpu = case.settings, machine.kind == "cpu"
    whole = numbers_of(settings, machine, facts.parameters).computed == 4
    return [
        [{"max_tokens_per_micro_batch": tokens} for tokens in _smaller_passes(case, machine)],
        _unless(settings.gradient_checkpointing, {"gradient_checkpointing": True}),
        _unless(settings.return_memory or not on_cpu, {"return_memory": True}),
        _unless(settings.offload_optimizer or on_cpu, {"offload_optimizer": True}),
        _unless(settings.optim != "adamw_torch", {"optim": "adamw_8bit"}),
        _unless(settings.dtype != "auto" or not whole or not machine.bfloat16, {"dtype": "bfloat16"}),
        [{"lora": Lora()}, {"lora": Lora(), "load_in_4bit": True}]
        if settings.lora is None
        else _unless(settings.load_in_4bit, {"load_in_4bit": True}),
    ]


def _unless(pulled: bool, lever: Changes) -> list[Changes]:
    return [] if pulled else [lever]


def _smaller_passes(case: Case, machine: Machine) -> list[int]:
    if not case.shares:
        return []
    core = "policy" if case.kind == "policy" else "supervised"
    now = case.max_tokens or PASS_TOKENS[core, machine.kind]
    least = max(SMALLEST_PASS, *case.rows.lengths)
    tokens, _ = case.passes(machine)
    return [size for size in dict.fromkeys((now // 2, now // 4, least)) if least <= size < min(now, tokens.tokens)]


def _refused(settings: TrainSettings, machine: Machine) -> Iterator[tuple[str, str]]:
    """Levers that cannot work here, each by itself, and why."""
    for name, value in (
        ("optim", "adamw_8bit"),
        ("optim", "paged_adamw_8bit"),
        ("load_in_4bit", True),
        ("attn_implementation", "flash_attention_2"),
        ("offload_optimizer", True),
        ("return_memory", True),
    ):
        found = problem_of(TrainSettings.model_validate({"lora": settings.lora or Lora(), name: value}), machine)
        if found is not None:
            yield f"{name}: {_yaml(value)}", found.message


def _better(one: LeverSet, other: LeverSet) -> bool:
    """Whether one is nowhere worse and somewhere better; the peak in MiB."""
    left, right = (one.peak >> 20, *one.price), (other.peak >> 20, *other.price)
    return left != right and all(mine <= theirs for mine, theirs in zip(left, right, strict=True))


def said(changes: Changes) -> str:
    """`gradient_checkpointing: true, optim: adamw_8bit`; as YAML takes them."""
    return ", ".join(lines_of(changes)) or "as it is"


def lines_of(changes: Changes) -> list[str]:
    """A line of YAML for each setting."""
    return [f"{name}: {_yaml(value)}" for name, value in changes.items()]


def _yaml(value: Any) -> str:
    if isinstance(value, Lora):
        return f"{{r: {value.r}, lora_alpha: {value.lora_alpha:g}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def gib(size: float) -> str:
    """`1.53 GiB`."""
    return f"{size / 2**30:.2f} GiB"
