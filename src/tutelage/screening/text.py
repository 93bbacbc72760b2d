"""Text made plain for comparison: disguises taken off, cut into words, shared runs of words found."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

LOOK_ALIKE = str.maketrans(
    "аеорсухіјѕԁһӏвкмнтгіѵԝաоսցɡɩıαοερνικτυχβηωјƖⅼ\u2223ʟ\u026aɴ\u1d0fᴇᴀ\ua731ʀᴛ\u1d1c\uff5c",
    "aeopcyxijsdhlbkmhtrivwaousgiiaoepviktuxbnwjllllinoeasrtu|",
)
"""Letters of other scripts that look like Latin ones in lower case."""


def contains_any(text: str, parts: Iterable[str]) -> bool:
    """Whether one of the parts stands in the text."""
    for part in parts:  # noqa: SIM110 (a loop is three times as quick as `any` with a generator, and this runs for every text)
        if part in text:
            return True
    return False


def visible(text: str) -> str:
    """The text without invisible characters (zero-width, bidirectional marks, tags), compatibility forms made plain; case is kept."""
    if text.isascii():
        return text
    return "".join(
        letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) not in ("Cf", "Cc") or letter in "\n\t"
    )


def undisguised(text: str) -> str:
    """The text for comparison: visible characters in lower case without accents, blanks made single."""
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", visible(text).casefold())
        text = unicodedata.normalize("NFC", "".join(letter for letter in apart if unicodedata.category(letter) != "Mn"))
    return re.sub(r"[^\S\n]+", " ", text.lower())


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def words(text: str) -> list[str]:
    """The words of a text for comparison: undisguised, without punctuation; a sign of a script without blanks counts as a word."""
    return _WORD.findall(undisguised(text))


def copied(text: str, sources: Iterable[str], n: int = 12) -> str | None:
    """The longest run of at least n consecutive words that the text shares with a source; None where there is none."""
    own = words(text)
    starts: dict[tuple[str, ...], int] = {}
    for start, gram in enumerate(grams(own, n)):
        starts.setdefault(gram, start)
    if not starts:
        return None
    best: list[str] = []
    for source in sources:
        theirs = words(source)
        for place, gram in enumerate(grams(theirs, n)):
            begin = starts.get(gram)
            if begin is not None:
                run = _shared_run(own[begin:], theirs[place:])
                best = max(best, run, key=len)
    return " ".join(best) or None


def grams(tokens: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """Every n consecutive words."""
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def _shared_run(one: list[str], other: list[str]) -> list[str]:
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return one[:length]
