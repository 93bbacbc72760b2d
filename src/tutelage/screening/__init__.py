"""Screening text before it may become knowledge, and fencing text that others wrote.

Patterns of words: they hold what looks like an attack, a secret or a tool call so that a person decides. They understand nothing: a harmful
wish in innocent words passes. What passes is therefore still fenced where a model reads it, and every entry can be traced and removed.
The usual disguises (case, spacing, invisible characters, look-alike letters, digits for letters) are taken off first.
"""

from __future__ import annotations

from tutelage.screening.fence import fence
from tutelage.screening.screen import Origin, screen
from tutelage.screening.text import copied, grams, words

__all__ = ["Origin", "copied", "fence", "grams", "screen", "words"]
