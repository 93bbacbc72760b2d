"""Patterns in which several agents work on one task. Each function gives an Agent, so patterns nest and every learner can learn from them.

The patterns and their names are those of "Building effective agents" (Anthropic, 2024). The simplest that works is the right one: compare
it with its first part alone before you keep it.
"""

from __future__ import annotations

from tutelage.workflows.chain import chain
from tutelage.workflows.orchestrate import orchestrate
from tutelage.workflows.parallel import sections, vote
from tutelage.workflows.refine import refine
from tutelage.workflows.route import route

__all__ = ["chain", "orchestrate", "refine", "route", "sections", "vote"]
