"""What `training.py` hands to each side: the same base, rows, sizes and reward; and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Job:
    """base: a transformers folder. prompts: `long` (instructions, 13 tools, the question: about 690 tokens) or `short` (the question).

    model: what the base was made from, as the agents name it. dtype: what both compute in; weights stay in float32. micro: samples that
    TRL trains on at once (0: all of a step). micro_tokens: tokens that tutelage trains on at once (0: as it comes). share: compute what
    rows begin with only once (tutelage). checkpointing: of activations. liger: TRL with the kernels of Liger.
    """

    base: str
    folder: Path
    prompts: str = "short"
    steps: int = 4
    batch: int = 4
    generations: int = 16
    completion: int = 48
    r: int = 16
    engine: str = "hf"
    dtype: str = "float32"
    micro: int = 0
    model: str = "smollm2-135m"
    micro_tokens: int = 0
    share: bool = True
    checkpointing: bool = False
    liger: bool = False


def reward(ids: Sequence[int]) -> float:
    """Something that differs between samples and costs nothing: the share of even token ids."""
    return sum(token % 2 == 0 for token in ids) / max(1, len(ids))


@dataclass(frozen=True)
class Measured:
    """seconds, losses: of each step. tokens: of each step (SFT: in its rows; GRPO: generated)."""

    seconds: list[float]
    losses: list[float]
    tokens: list[int]
    peak_gb: float = 0.0

    @property
    def warm(self) -> list[float]:
        """Seconds of the steps after the first, which warms up."""
        return self.seconds[1:] or self.seconds

    @property
    def tokens_a_second(self) -> float:
        """Over the warm steps."""
        return sum(self.tokens[-len(self.warm) :]) / sum(self.warm)

    def data(self) -> dict[str, Any]:
        return asdict(self)
