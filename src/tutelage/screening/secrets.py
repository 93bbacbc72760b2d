"""Secrets that a text states: keys by their known forms, passwords by the words before them, card numbers by their check digit."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import cycle

from tutelage.screening.text import contains_any

_KEYS = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY")),
    ("an AWS key", re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b")),
    (
        "an API key",
        re.compile(
            r"\b(?:sk|rk|pk)[-_](?:[a-z]+[-_])*[A-Za-z0-9_-]{20,}|\bgh[oprsu]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|"
            r"\bxox[abeoprs]-[\w-]{10,}|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}|"
            r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bdop_v1_[0-9a-f]{40,}"
        ),
    ),
    ("a signed token", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.")),
    ("a bearer token", re.compile(r"\bbearer\s+(?=[^\s]*\d)[\w.~+/-]{16,}", re.IGNORECASE)),
)
_HINTS = (
    "PRIVATE KEY",
    "AKIA",
    "ASIA",
    "AROA",
    "AIDA",
    "sk",
    "rk",
    "pk",
    "gh",
    "glpat",
    "xox",
    "AIza",
    "ya29",
    "hf_",
    "npm_",
    "pypi-",
    "SG.",
    "dop_",
    "eyJ",
    "earer",
    "EARER",
)

_NAMED = re.compile(
    r"\b(?:pass(?:word|wd|code|phrase)|pwd|api[ _-]?key|(?:secret|access|private)[ _-]?key|(?:access|auth|session|api)[ _-]?token|"
    r"client[ _-]?secret)"
    r"[\"'`*]{0,3}\s*(?:(?P<mark>[:=])|\bis\b|\bto\b)\s*"
    r"(?P<quote>[\"'`*]{0,3})(?P<value>[^\s\"'`,;}]{3,64})",
    re.IGNORECASE,
)
_NAMED_HINTS = ("pass", "pwd", "key", "token", "secret")
_CHANGED = re.compile(
    r"\b(?:change|set|reset|update)\b[^.!?\n]{0,30}\bpassword\b[^.!?\n]{0,40}?\bto\s+[\"'`]?(?P<value>[^\s\"'`,;]{4,64})", re.IGNORECASE
)
_PIN = re.compile(
    r"\b(?:pin|cvv|cvc|otp|(?:security|verification|access|2fa) code)(?: code| number)?\s*(?:is|:|=|was)?\s*[\"'`]?\d{3,8}\b", re.IGNORECASE
)
_PIN_HINTS = ("pin", "cv", "otp", "code")
_PLACEHOLDER = re.compile(
    r"^(?:[<{\[($%*.x_?-].*|reset\w*|expired|forgotten|forgot|wrong|incorrect|invalid|unknown|changed|required|optional|missing|none|null|true|false|"
    r"n/?a|str(?:ing)?|text|secret|hidden|redacted|your\w*|the|and|for|not|but|please|must|should|has|was|is|too|still|no|yes|what|how|why|help|policy|new)[.!?)]*$",
    re.IGNORECASE,
)

_CARD = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\w.]?\d)")
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6")
_TOKEN = re.compile(r"(?<![\w/+=.-])[\w+=-]{24,200}(?![\w/])")
ENTROPY = 4.0
"""Bits a character from which a long mixed token counts as random: English words joined have about 3.5, base64 of random bytes 4.4 at 32
characters."""


def stated_secret(text: str) -> str | None:
    """Which kind of secret the text states, in words that do not repeat it; None where none was found."""
    if contains_any(text, _HINTS):
        for name, pattern in _KEYS:
            if pattern.search(text):
                return f"contains {name}"
    lowered = text.lower()
    if contains_any(lowered, _NAMED_HINTS) and _states_password(text):
        return "contains a password or key"
    if contains_any(lowered, _PIN_HINTS) and _PIN.search(text):
        return "contains a code"
    if any(_is_card(found[0]) for found in _CARD.finditer(text)):
        return "contains a card number"
    if any(_is_random(found[0]) for found in _TOKEN.finditer(text)):
        return "contains what looks like a key (a long random token)"
    return None


def _states_password(text: str) -> bool:
    for found in _NAMED.finditer(text):
        value = found["value"].rstrip(".!?)")
        sure = found["mark"] in (":", "=") or bool(found["quote"])
        if len(value) >= 3 and not _PLACEHOLDER.match(value) and (sure or _mixed(value)):
            return True
    return any(_mixed(found["value"].rstrip(".!?)")) and not _PLACEHOLDER.match(found["value"]) for found in _CHANGED.finditer(text))


def _mixed(value: str) -> bool:
    """Letters together with digits or signs within, as passwords have and words do not."""
    return any(map(str.isalpha, value)) and any(sign.isdigit() or sign in "_!@#$%^&*+=" for sign in value)


def _is_card(found: str) -> bool:
    digits = [int(digit) for digit in found if digit.isdigit()]
    if not _ISSUER.match("".join(map(str, digits))) or len(set(digits)) < 2:
        return False
    doubled = [digit * weight for digit, weight in zip(reversed(digits), cycle((1, 2)), strict=False)]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_random(token: str) -> bool:
    """Upper and lower case and digits well mixed, as no word, number, path or hexadecimal id is."""
    kinds = [sum(map(kind, token)) for kind in (str.isupper, str.islower, str.isdigit)]
    if min(kinds) < 3:
        return False
    counts = Counter(token).values()
    return -sum(count / len(token) * math.log2(count / len(token)) for count in counts) >= ENTROPY
