"""Screening text before it may become knowledge: instructions to ignore rules, tool calls, secrets."""

from __future__ import annotations


def screen(text: str) -> tuple[str, ...]:
    """Why this text must be held for a person; empty where nothing was found."""
    return ()
