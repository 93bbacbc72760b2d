"""How a grader that asks models comes by them: whoever runs it hands it models that are metered, kept and within the budget.

A grader of this kind has `bind(models)`, which gives the same grader with another source of models. What runs episodes calls `bind_grader`
once; a grader that was never bound loads its models itself, and nothing is counted or kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

from tutelage.grader import Grader
from tutelage.model import Model

Models = Callable[[str | Model], Model]
"""The model of a name (or one like the given model) that is to be asked."""


@runtime_checkable
class AsksModels(Protocol):
    """A grader that asks models."""

    def bind(self, models: Models) -> Self:
        """The same grader, asking the models that `models` gives. They are looked up when they are first asked, not before."""
        ...


def bind_grader(grader: Grader, models: Models) -> Grader:
    """The grader with the models that it is to ask; one that asks none as it is."""
    return grader.bind(models) if isinstance(grader, AsksModels) else grader
