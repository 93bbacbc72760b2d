"""What surrounds an optimiser step: the learning rate's schedule, the tally of what is reported, memory, random numbers."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tutelage.training.packing import MicroBatch
from tutelage.training.policy_loss import Losses
from tutelage.training.ranks import Ranks
from tutelage.training.settings import TrainSettings

_SUMS = ("ratio", "entropy", "clip_fraction", "kl", "importance", "value_loss")


def schedule(settings: TrainSettings, step: int, total: int | None) -> float:
    """The learning rate of a step (from 0) as a share of the full one: linear warm-up, then as `lr_scheduler_type` says; constant without a
    total. Different from transformers: the first step of a warm-up already moves.
    """
    if total is None:
        return 1.0
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.lr_scheduler_type == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1 - done if settings.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Tally:
    """Sums over micro-batches, then over processes: everything at a place of one vector, so that all processes agree on its length."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(_SUMS) + 4, dtype=torch.float64, device=device)
        self._ratio_max = torch.zeros(1, dtype=torch.float64, device=device)
        self._reported = {"ratio", "entropy", "clip_fraction"}

    def add(self, losses: Losses, micro: MicroBatch) -> None:
        """Count a micro-batch."""
        sizes = (float(len(micro.token)), float(micro.ids.numel()), 1.0)
        self._sums[:4] += torch.stack([losses.loss.detach().double(), *(self._sums.new_tensor(size) for size in sizes)])
        for place, name in enumerate(_SUMS, 4):
            if name in losses.sums:
                self._sums[place] += losses.sums[name]
        self._ratio_max = torch.maximum(self._ratio_max, losses.ratio_max)
        self._reported |= losses.sums.keys()

    def means(self, ranks: Ranks) -> dict[str, float]:
        """The loss, and means over the action tokens that were counted."""
        loss, tokens, computed, micro_batches, *sums = ranks.sum(self._sums).tolist()
        found = {name: value / max(tokens, 1.0) for name, value in zip(_SUMS, sums, strict=True) if name in self._reported}
        ratio_max = float(ranks.max(self._ratio_max))
        return {"loss": loss, **found, "ratio_max": ratio_max, "tokens_computed": computed, "micro_batches": micro_batches}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from `seed` while inside; what they were before comes back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on a CPU (where torch says so with a plain RuntimeError)."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: on a GPU those that torch allocated, else those of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
