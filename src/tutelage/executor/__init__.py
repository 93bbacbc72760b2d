"""The executor of AGILE (Feng et al. 2024, arXiv:2405.14751): sessions in which the model acts on memory, an expert, tools and context.

The model's reply names an action; the executor runs it, changes context or memory, shows what came of it and hands control back. Loss
falls on the tokens of the model alone, and a cleared context begins a segment of its own.
"""

from __future__ import annotations

from tutelage.executor.action import Action, action
from tutelage.executor.actions import ACTIONS
from tutelage.executor.ask_when import AskWhen
from tutelage.executor.executor import AgileExecutor
from tutelage.executor.outcome import confidence_of, reward_of, writes_of
from tutelage.executor.parse import parse_action
from tutelage.executor.session import Session

__all__ = ["ACTIONS", "Action", "AgileExecutor", "AskWhen", "Session", "action", "confidence_of", "parse_action", "reward_of", "writes_of"]
