"""How long a step takes, from the multiplications in it: an estimate, for comparing levers with each other.

A token costs 2 operations a number of a matrix forwards, 2 backwards to pass the gradient on, and 2 more where the matrix learns.
Checkpointed blocks go forwards twice. Each pass touches all weights once, which memory makes slower than multiplying; so does turning 4
bits into 16.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from tutelage.training.activations import numbers_of
from tutelage.training.machine import Machine
from tutelage.training.memory import Case, learning_parameters
from tutelage.training.model_facts import ModelFacts

TOUCHED = 64
"""Operations that could be made while memory gives one number of the weights."""
UNPACKED = {"cpu": 400, "cuda": 24}
"""The same for turning a number of 4 bits into one of 16: an assumption."""
MOVED = {"cpu": 0, "cuda": 20_000}
"""The same for moving a number of gradient and weight to main memory and back, with AdamW's step there: an assumption."""
EIGHT_BIT = {"cpu": 1500, "cuda": 64}
"""The same for a step of AdamW in 8 bits: an assumption."""
RETURNED = 1.35
"""How much longer a step takes with `return_memory`: fresh pages cost time. Measured on two cores: 1.25 to 1.5."""
IN_16_BITS = 1.9
"""How many times as fast matrices of bfloat16 are multiplied, where the hardware does it: measured on a Xeon with AMX."""
EFFICIENCY = 0.6
"""The share of the rate of one large product that a whole step comes to."""


def step_operations(facts: ModelFacts, case: Case, machine: Machine) -> float:
    """Operations of one step, what memory costs turned into them, in units of float32's rate."""
    settings, (one, passes) = case.settings, case.passes(machine)
    tokens, matrices = one.tokens * passes, facts.layers * facts.block
    forward = 2.0 * matrices + 2.0 * facts.layers * facts.queries * one.width
    backward = forward * (2 if settings.lora is None else 1)
    again = forward if settings.gradient_checkpointing else 0
    head = 2.0 * facts.head * case.rows.learned * (4 if settings.lora is None else 2)
    adapters = 6.0 * learning_parameters(settings, facts) if settings.lora is not None else 0
    numbers = numbers_of(settings, machine, facts.parameters)
    faster = IN_16_BITS if numbers.computed == 2 and machine.kind == "cpu" else 1.0
    total = tokens * (forward + backward + again + head + adapters) / faster + passes * facts.parameters * TOUCHED
    return (total + _extra(facts, case, machine, passes)) * (RETURNED if settings.return_memory else 1.0)


def _extra(facts: ModelFacts, case: Case, machine: Machine, passes: int) -> float:
    settings, kind = case.settings, machine.kind
    learning = learning_parameters(settings, facts)
    unpacked = passes * (3 if settings.gradient_checkpointing else 2) * facts.layers * facts.block * UNPACKED[kind]
    extra = float(unpacked) if settings.load_in_4bit else 0.0
    extra += learning * EIGHT_BIT[kind] if settings.optim != "adamw_torch" else 0
    return extra + (learning * MOVED[kind] if settings.offload_optimizer else 0)


def measured_rate(size: int = 768) -> float:
    """Operations a second of a product of float32 matrices by this processor, measured in a moment."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        begun = perf_counter()
        left @ right
        best = min(best, perf_counter() - begun)
    return 2.0 * size**3 / best
