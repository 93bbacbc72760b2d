"""The vocabulary of `agile.py`'s pupil: one token for each phrase of the shop that recurs, so that a whole session is short.

The shop's language is made of a few thousand fixed phrases around names and numbers. Texts are cut at those *atoms* (brands, models,
numbers, values, marks), and every piece between them that is frequent becomes one token, spaces included. What is left is written in words
and characters, so that any text can be read and written back exactly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from tutelage.environments.shop_catalogue import BRANDS, GROUPS

TURNS = {"system": "<|s|>", "user": "<|u|>", "assistant": "<|a|>"}
END, PAD, UNKNOWN = "<|e|>", "<|pad|>", "\N{REPLACEMENT CHARACTER}"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}<|s|>{% elif message['role'] == 'user' %}<|u|>{% else %}<|a|>"
    "{% endif %}{{ message['content'] }}<|e|>{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)
_MARKS = (r"\n+", r"\. ", "; ", ": ", "reflect ", "predict_answer ")
_PRICE = re.compile(r"(\d\.\d+)")
"""What changes from one agent's instructions to another's."""
_CHARACTERS = "".join(map(chr, range(32, 127))) + "\n°²€"


@cache
def atom_pattern() -> re.Pattern[str]:
    """What texts are cut at, the longest first: names and values of the catalogue, numbers, marks."""
    models = [rf" {model}" for group in GROUPS.values() for model in group.models]
    values = {str(value) for group in GROUPS.values() for column in group.columns for value in column.values if isinstance(value, str)}
    words = sorted({*BRANDS, *models, *values}, key=len, reverse=True)
    named = "|".join(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])" for word in words)
    return re.compile(rf"({named}| ?\d+(?:\.\d+)?|{'|'.join(_MARKS)})")


def pieces(text: str) -> list[str]:
    """A text as atoms and what lies between them."""
    return [piece for piece in atom_pattern().split(text) if piece]


def vocabulary(texts: Iterable[str], fixed: Iterable[str] = (), *, least: int) -> list[str]:
    """The tokens that are no special ones: pieces that occur `least` times or more, lines of `fixed` texts between numbers, characters."""
    counts: Counter[str] = Counter()
    for text, times in Counter(texts).items():
        counts.update(dict.fromkeys(pieces(text), times))
    known = [piece for piece, count in counts.most_common() if count >= least]
    lines = [part for text in fixed for part in _PRICE.split(text) if part]
    return list(dict.fromkeys([*known, *lines, *_CHARACTERS]))


def make_tokenizer(tokens: Iterable[str]) -> Any:
    """A fast tokenizer that writes a text in as few of these tokens as there can be."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, END, *TURNS.values()]
    known = [(UNKNOWN, -100.0), *((token, 0.0) for token in specials), *((token, -1.0) for token in tokens)]
    inner = Tokenizer(models.Unigram(known, unk_id=0, byte_fallback=False))
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=UNKNOWN, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
