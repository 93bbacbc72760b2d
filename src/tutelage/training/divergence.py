"""When a training has gone wrong: a loss or a gradient that is no number, or a loss far above where it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tutelage.errors import TutelageError

RECENT = 5
"""Over so many steps the loss of a supervised training is averaged before it is judged."""
EXPLOSION = 1000.0
"""A policy's loss, whose mean is about 0, may be so many times as large as the largest of the last `REMEMBERED` (or 1)."""
REMEMBERED = 20


class Diverged(TutelageError):
    """A loss or a gradient was not finite, or the loss exploded.

    From the policy gradient: the step was not applied, the weights are those from before it. Within a supervised training it is caught,
    and the last good weights are kept.
    """


def recent_loss(found: Sequence[float]) -> float:
    """The mean of the last few."""
    last = found[-RECENT:]
    return sum(last) / len(last)


def exploded(found: Sequence[float]) -> bool:
    """Whether the loss is no number, or its recent mean lies above one and a half times where it began, plus one nat."""
    return not math.isfinite(found[-1]) or recent_loss(found) > 1.5 * found[0] + 1


def healthy(found: Sequence[float]) -> bool:
    """Whether the recent loss is about the lowest that it has been."""
    lowest = min(recent_loss(found[: count + 1]) for count in range(len(found)))
    return recent_loss(found) <= 1.2 * lowest + 0.1


def leapt(loss: float, earlier: Sequence[float]) -> bool:
    """Whether a policy's loss is no number, or out of all proportion to the earlier ones."""
    usual = max([1.0, *map(abs, earlier[-REMEMBERED:])])
    return not math.isfinite(loss) or abs(loss) > EXPLOSION * usual
