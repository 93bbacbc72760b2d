"""The low-rank pairs of a LoRA folder, read without torch: what is compared and combined.

An adapter changes the weight W of a layer into W + scale * B A, with A (rank, in) and B (out, rank). peft's scale is alpha / rank, or
alpha / sqrt(rank) with `use_rslora`; `alpha_pattern` gives some layers another alpha.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.adapter import Adapter, StoredTensor, read_config, stored_tensors
from tutelage.errors import InputError
from tutelage.training.gguf_adapter import values_of

if TYPE_CHECKING:
    import numpy as np

_PREFIX, _LOW, _HIGH = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_OTHER_SUMS = ("use_dora", "lora_bias", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config", "arrow_config")
"""Settings with which a layer's change is no longer scale * B A."""


@dataclass(frozen=True)
class Pair:
    """A layer's change: scale * B A. low: A (rank, in). high: B (out, rank)."""

    low: StoredTensor
    high: StoredTensor
    scale: float

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.low.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the layer's weight: (out, in)."""
        return self.high.shape[0], self.low.shape[1]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(A, B) as float32, without the scale."""
        return values_of(self.low), values_of(self.high)


@dataclass(frozen=True)
class LoraWeights:
    """What a LoRA folder holds. pairs: by the layer's name. others: names of tensors that are no such pairs (rows of tokens, whole layers).

    config: peft's.
    """

    pairs: dict[str, Pair]
    others: tuple[str, ...]
    config: dict[str, Any]


def read_pairs(adapter: Adapter) -> LoraWeights:
    """The pairs of an adapter of the kind `lora`. Raises `InputError` for a damaged one, and for what is more than pairs (DoRA)."""
    folder = Path(adapter.folder)
    config, tensors = read_config(folder, "lora"), stored_tensors(folder)
    odd = [name for name in _OTHER_SUMS if config.get(name)]
    if odd:
        raise InputError(f"with `{odd[0]}` an adapter is more than low-rank sums; this is for plain LoRA", file=folder)
    pairs = {_layer(name): _pair(name, tensors, config) for name in sorted(tensors) if name.endswith(_LOW)}
    known = {f"{_PREFIX}{name}{end}" for name in pairs for end in (_LOW, _HIGH)}
    return LoraWeights(pairs, tuple(name.removeprefix(_PREFIX) for name in sorted(tensors) if name not in known), config)


def _layer(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_LOW)


def _pair(name: str, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> Pair:
    low, high = tensors[name], tensors.get(name.removesuffix(_LOW) + _HIGH)
    if high is None or len(low.shape) != 2 or len(high.shape) != 2 or low.shape[0] != high.shape[1]:
        raise InputError(f"`{_layer(name)}` has no lora_A and lora_B of matrices that belong together", file=low.file)
    return Pair(low, high, _scale(config, _layer(name), low.shape[0]))


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """As peft has it: a pattern is a layer's name or the end of it, which may be a regular expression."""
    patterns = config.get("alpha_pattern") or {}
    found = next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)), config.get("lora_alpha", 8))
    return float(found) / (math.sqrt(rank) if config.get("use_rslora") else rank)
