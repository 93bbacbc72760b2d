"""How much memory a training takes at its peak, by part: worked out from sizes, with no weights read and no torch.

A step goes through moments, each with other things alive; the peak is that of the largest (P parameters, T of them learning, V x H the
output layer):

    forward     weights, optimiser state, what was kept of the passes before (gradients, 4 T), activations of one pass, the loss's blocks
    backward    the same with all gradients, after the activations are gone; tied embeddings have two, and for a moment their sum
    step        gradients and state; in 8 bits on a CPU one tensor of the state in float32 as well
    sampling    (reinforcement with `hf`) a second copy of the base, and the keys and values of the rows that are sampled

Weights that learn are float32 always, and so are their gradients and the two states of AdamW. Under autocast all matrices have copies in
16 bits while a pass lasts; frozen ones under LoRA are kept in 16 bits, and on a CPU the pages of their file stay in memory beside them.

On a CPU the process itself counts, and so does what the C library's allocator loses: small tensors that are kept stand in the holes of
large ones that were freed, which then are too small for the next. How much was measured (`docs/memory.md`). Nor does it give the holes of
activations back: gradients take their place, except for tensors of more than 32 MB, which have pages of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tutelage.training.activations import Numbers, Pass, adapted, lora_parameters, numbers_of, pass_bytes
from tutelage.training.machine import Machine
from tutelage.training.model_facts import ModelFacts
from tutelage.training.settings import TrainSettings

Kind = Literal["sft", "dpo", "policy"]
PROCESS = 515 << 20
"""Python with torch, transformers, peft and TRL, before a model is loaded: measured."""
LOSS_BLOCK = {"cpu": (512, 1024), "cuda": (4096, 16_384)}
"""Of `cut_cross_entropy.Blocks`: tokens and vocabulary at a time."""
LOSS_KEPT = 64 << 20
"""As `cut_cross_entropy.KEPT_BYTES`."""
FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a number in NF4: 64 share a scale of 8 bits, and 256 of these one of 32."""
EIGHT_BIT = 2 * (1 + 4 / 256)
"""Bytes of both states of AdamW in 8 bits: 256 share a scale."""
PASS_TOKENS = {("supervised", "cpu"): 2048, ("supervised", "cuda"): 16_384, ("policy", "cpu"): 1024, ("policy", "cuda"): 16_384}
"""Tokens of a pass where the settings do not say."""


@dataclass(frozen=True)
class Rows:
    """What a step learns from. lengths: of the rows of the largest batch, in tokens (of a pair both sides). common: tokens that all begin
    with. learned: tokens that bear loss, at most, as a share. steps: how many there are. known: False where lengths are a bound.
    """

    lengths: tuple[int, ...]
    common: int = 0
    learned: float = 1.0
    steps: int = 1000
    known: bool = True


@dataclass(frozen=True)
class Case:
    """A training to forecast. kind: which core it runs on. max_tokens: of a pass (None: the core's own). shares: rows that begin alike are
    computed together, pass by pass (reinforcement goes in passes always). sampler: torch samples in the same process, from a second copy of
    the base. validates: there are rows that weights are judged by.
    """

    kind: Kind
    settings: TrainSettings
    rows: Rows
    max_tokens: int | None = None
    shares: bool = True
    sampler: bool = False
    validates: bool = False

    def passes(self, machine: Machine) -> tuple[Pass, int]:
        """(the largest pass, how many passes a step has)."""
        core = "policy" if self.kind == "policy" else "supervised"
        most = self.max_tokens or PASS_TOKENS[core, machine.kind]
        lengths, rows = sorted(self.rows.lengths, reverse=True), self.rows
        longest = max(lengths)
        again = self.settings.gradient_accumulation_steps if self.kind != "policy" else 1
        if not self.shares and self.kind != "policy":  # padded
            return Pass(longest * len(lengths), longest, len(lengths), round(sum(lengths) * rows.learned)), again
        apart = rows.common + sum(length - rows.common for length in lengths)
        tokens = max(longest, min(most, apart))
        masked = rows.common > 0 and len(lengths) > 1 and apart > longest
        lines = 1 if masked else max(1, tokens // longest)
        return Pass(tokens, tokens if masked else longest, lines, round(tokens * rows.learned), masked), again * -(-apart // tokens)


@dataclass(frozen=True)
class Parts:
    """Bytes by part. process: of the process itself, on a CPU. kept: copies of the weights that are held to come back to. lost: by the
    allocator. sampler: weights, keys and values that sample.
    """

    process: int = 0
    weights: int = 0
    optimizer: int = 0
    kept: int = 0
    gradients: int = 0
    activations: int = 0
    loss: int = 0
    sampler: int = 0
    lost: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.__dict__.values())


def peak_parts(facts: ModelFacts, case: Case, machine: Machine, *, process: int = PROCESS) -> Parts:
    """The parts at the peak. process: bytes that this process has already, in place of what was measured of a bare one."""
    return max(moments(facts, case, machine, process=process).values(), key=lambda parts: parts.total)


def moments(facts: ModelFacts, case: Case, machine: Machine, *, process: int = PROCESS) -> dict[str, Parts]:
    """The parts in each moment of a step, once training is under way."""
    settings, numbers = case.settings, numbers_of(case.settings, machine, facts.parameters)
    one, passes = case.passes(machine)
    learning = learning_parameters(settings, facts)
    head = facts.head if settings.lora is None else 0
    on_cpu = machine.kind == "cpu"
    always = Parts(
        process=process if on_cpu else 0,
        weights=weight_bytes(facts, settings, numbers, on_cpu=on_cpu),
        optimizer=optimizer_bytes(facts, settings, learning),
        kept=_kept_copies(case) * 4 * learning if on_cpu else 0,
        sampler=_sampling_numbers(facts, machine) * facts.parameters if case.sampler else 0,
    )
    gradients = 4 * learning
    copies = 2 * (facts.layers * facts.block if settings.lora is None else learning) if numbers.autocast else 0
    forward = replace(
        always,
        gradients=(gradients if passes > 1 else 0) + 4 * head,
        activations=round(pass_bytes(facts, settings, numbers, one)) + copies,
        loss=loss_bytes(facts, numbers, one.learned, head_learns=bool(head), on=machine.kind),
        lost=_lost(facts, case, numbers, one, passes) if on_cpu else 0,
    )
    found = {
        "forward": forward,
        "backward": _backward(always, forward, gradients, 4 * head, facts, several=passes > 1),
        "step": replace(always, gradients=gradients, optimizer=always.optimizer + _step_space(facts, settings, on_cpu=on_cpu)),
    }
    if case.sampler:
        found["sampling"] = replace(always, sampler=always.sampler + _cache_bytes(facts, case, machine))
    return found


def _backward(always: Parts, forward: Parts, gradients: int, head: int, facts: ModelFacts, *, several: bool) -> Parts:
    """The end of the way back. head: bytes of the output layer's gradient, where it learns. several: of several passes, not the first."""
    there = head * (1 if facts.tied else 2)
    apart = there + head * ((2 if facts.tied else 0) + several)
    made = replace(always, gradients=gradients - there + apart, activations=forward.activations // max(1, facts.layers))
    if not forward.lost:
        return made
    in_holes = made.activations + made.gradients - (apart if head > LARGEST_HOLE else 0)
    return replace(made, lost=max(0, forward.activations + forward.lost - in_holes))


def learning_parameters(settings: TrainSettings, facts: ModelFacts) -> int:
    """How many numbers learn."""
    return facts.parameters if settings.lora is None else lora_parameters(settings, facts)


def weight_bytes(facts: ModelFacts, settings: TrainSettings, numbers: Numbers, *, on_cpu: bool) -> int:
    """The model as it is trained, adapters included."""
    matrices = facts.layers * facts.block
    if settings.lora is None:
        return 4 * facts.parameters
    own = 4 * lora_parameters(settings, facts)
    if settings.load_in_4bit:
        return own + round(FOUR_BIT * matrices) + numbers.weights * (facts.parameters - matrices)
    frozen = 2 * matrices if on_cpu and numbers.autocast else 0
    return own + numbers.weights * facts.parameters + frozen


def optimizer_bytes(facts: ModelFacts, settings: TrainSettings, learning: int) -> int:
    """The state of AdamW where the weights are; of embeddings it stays in 32 bits."""
    if settings.offload_optimizer:
        return 0
    if settings.optim == "adamw_torch":
        return 8 * learning
    wide = facts.head if settings.lora is None else 0
    return 8 * wide + round(EIGHT_BIT * (learning - wide))


def loss_bytes(facts: ModelFacts, numbers: Numbers, learned: int, *, head_learns: bool, on: Literal["cpu", "cuda"]) -> int:
    """What the log-probabilities of tokens take: hidden states and their gradient, blocks of logits; see `cut_cross_entropy.py`."""
    tokens, vocabulary = LOSS_BLOCK[on]
    blocks = 3 * 4 * min(tokens, learned) * min(vocabulary, facts.vocabulary)
    states = learned * facts.hidden * (4 + numbers.residual + (numbers.computed if numbers.autocast else 0))
    whole = learned * facts.vocabulary * numbers.computed
    return blocks + states + (whole if head_learns and whole <= LOSS_KEPT else 0)


def _kept_copies(case: Case) -> int:
    """Copies of what learns in main memory, of supervised training: the last good ones, and those not yet known to be."""
    if case.kind == "policy":
        return 0
    return min(2, max(0, case.rows.steps - 1)) if not case.validates else 1


def _step_space(facts: ModelFacts, settings: TrainSettings, *, on_cpu: bool) -> int:
    """What an optimiser's step needs beside state and gradients: bitsandbytes on a CPU a tensor of the state in float32, several times."""
    if settings.optim == "adamw_torch" or not on_cpu:
        return 0
    largest = max(inputs * outputs for inputs, outputs in facts.matrices.values())
    rank = settings.lora.r if settings.lora else 0
    return 4 * 4 * (largest if not rank else rank * max(max(facts.matrices[name]) for name in adapted(settings, facts)))


def _sampling_numbers(facts: ModelFacts, machine: Machine) -> int:
    """Bytes of a number of the weights that sample; `auto` decides."""
    return numbers_of(TrainSettings(), machine, facts.parameters).computed


def _cache_bytes(facts: ModelFacts, case: Case, machine: Machine) -> int:
    """Keys and values of the rows that are sampled together."""
    return sum(case.rows.lengths) * facts.layers * 2 * facts.keys * _sampling_numbers(facts, machine)


LARGEST_HOLE = 32 << 20
"""Bytes: larger tensors have pages of their own in glibc, where nobody sets its threshold."""
LOST = {"lora": 6.5, "full": 3.2, "full, checkpointed": 5.0}
"""Of a block's N x I numbers, so many times are lost by glibc's allocator in a step of one pass: measured."""
LOST_AGAIN = {"lora": 1.6, "full": 1.3, "full, checkpointed": 1.3}
"""Times as much in a step of several passes, whose gradients stand between: measured; checkpointed as without."""


def _lost(facts: ModelFacts, case: Case, numbers: Numbers, one: Pass, passes: int) -> int:
    settings = case.settings
    if settings.return_memory:
        return 0
    kind = "lora" if settings.lora is not None else "full, checkpointed" if settings.gradient_checkpointing else "full"
    times = LOST[kind] * (LOST_AGAIN[kind] if passes > 1 else 1)
    return round(times * facts.layers * one.tokens * facts.intermediate * (numbers.computed + numbers.residual) / 2)
