"""Bytes that autograd keeps of a pass until its way back, counted tensor by tensor. Nothing here needs torch.

Counted are the layers of Llama, Mistral, Qwen 2 and Qwen 3 as transformers computes them with `sdpa`; the tests compare with what autograd
is seen to save. Of a block, for each token (H hidden, I intermediate, Q queries, K keys, all in numbers; w bytes of a product, h of a
residual):

    both norms' inputs                    2 H h        their normalised inputs, where norms learn   2 H h
    what projections read                 2 H h        under autocast a copy for each of the five   5 H w
    queries and attention's result        2 Q w        keys and values                              2 K w  (2 Q w under a mask of its own)
    gate, its activation, up, product     4 I w        log-sum-exp of attention, norms' scales      4 heads + 8

Under LoRA a frozen layer keeps what it read only for its adapter, whose inner product is kept too (r w). Checkpointed, a block keeps the
residual it began with (H h), and of one block at a time everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.training.machine import Machine
from tutelage.training.model_facts import ModelFacts
from tutelage.training.settings import Lora, TrainSettings

BFLOAT16_FROM = 50_000_000
"""As `base.BFLOAT16_FROM`: a model of fewer parameters is left in float32 on a CPU where the settings do not say."""


@dataclass(frozen=True)
class Numbers:
    """Bytes of a number. computed: of products; weights: of what is loaded; residual: of hidden states. autocast: products are computed in
    another type than the weights have, for which copies are made.
    """

    computed: int
    weights: int
    residual: int
    autocast: bool


def numbers_of(settings: TrainSettings, machine: Machine, parameters: int) -> Numbers:
    """As `base.training_formats`, without torch."""
    wanted = settings.dtype
    if wanted == "auto":
        fast = machine.bfloat16 and (machine.kind == "cuda" or parameters >= BFLOAT16_FROM)
        wanted = "bfloat16" if fast else "float32"
    if wanted == "float32":
        return Numbers(4, 4, 4, autocast=False)
    if settings.lora is not None and machine.kind == "cuda":
        return Numbers(2, 2, 2, autocast=True)
    return Numbers(2, 4, 4, autocast=True)


@dataclass(frozen=True)
class Pass:
    """What goes through a model at once. tokens: padding included; width: of its widest line; lines: how many. learned: tokens that bear
    loss. masked: lines are trees, with a mask of their own.
    """

    tokens: int
    width: int
    lines: int
    learned: int
    masked: bool = False


def adapted(settings: TrainSettings, facts: ModelFacts) -> tuple[str, ...]:
    """The layers of a block that have an adapter."""
    if settings.lora is None:
        return ()
    targets = settings.lora.target_modules
    return tuple(name for name in facts.matrices if targets == "all-linear" or name in targets)


def lora_parameters(settings: TrainSettings, facts: ModelFacts) -> int:
    """How many numbers learn under LoRA."""
    if settings.lora is None:
        return 0
    return facts.layers * settings.lora.r * sum(sum(facts.matrices[name]) for name in adapted(settings, facts))


def block_bytes(facts: ModelFacts, settings: TrainSettings, numbers: Numbers, one: Pass) -> float:
    """What is kept of one block, a token."""
    product, learns = numbers.computed, settings.lora is None
    keys = facts.queries if one.masked or settings.attn_implementation == "eager" else facts.keys
    kept = 2.0 * facts.hidden * numbers.residual + 2 * keys * product + 4 * facts.heads + 8
    kept += (3 if numbers.autocast and "o_proj" in adapted(settings, facts) else 2) * facts.queries * product
    kept += 2 * facts.hidden * numbers.residual if learns else 0
    kept += _head_norms(facts, product, learns=learns) if facts.head_norms else 0
    if settings.attn_implementation == "eager":
        kept += facts.heads * one.width * (4 + product)
    return kept + _read(facts, settings, numbers) + (0 if settings.lora is None else _adapters(facts, settings, settings.lora, product))


def pass_bytes(facts: ModelFacts, settings: TrainSettings, numbers: Numbers, one: Pass) -> float:
    """What is kept of all blocks of a pass, and of what stands around them."""
    block = block_bytes(facts, settings, numbers, one)
    checkpointed = facts.layers * facts.hidden * numbers.residual + block
    blocks = checkpointed if settings.gradient_checkpointing else facts.layers * block
    around = 8.0 * facts.head_dim + (2 * facts.hidden * numbers.residual + 12 if settings.lora is None else 0)
    mask = one.lines * one.width**2 * (numbers.computed + 1) if one.masked else 0
    return one.tokens * (blocks + around) + mask


def _read(facts: ModelFacts, settings: TrainSettings, numbers: Numbers) -> float:
    """Of what the layers read and the gate's parts: see the table above."""
    has = set(facts.matrices if settings.lora is None else adapted(settings, facts))
    groups = [{"q_proj", "k_proj", "v_proj"} & has, {"gate_proj", "up_proj"} & has]
    copies = sum(len(group) for group in groups) if numbers.autocast else sum(1 for group in groups if group)
    read = copies * facts.hidden * (numbers.computed if numbers.autocast else numbers.residual)
    return read + (4 if "down_proj" in has else 3) * facts.intermediate * numbers.computed


def _adapters(facts: ModelFacts, settings: TrainSettings, lora: Lora, product: int) -> float:
    """The inner products of adapters; with dropout also what was dropped, and what was left."""
    names = adapted(settings, facts)
    dropped = sum(facts.matrices[name][0] for name in names) * (4 + product) if lora.lora_dropout else 0
    return lora.r * product * len(names) + dropped


def _head_norms(facts: ModelFacts, product: int, *, learns: bool) -> float:
    both = facts.queries + facts.keys
    return both * (4 + product if learns else 4) + 4 * (facts.heads + facts.kv_heads)
