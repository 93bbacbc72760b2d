"""Plain text to learn a language from: files of UTF-8, cut into pieces at the ends of lines. Nothing is lost: joined, they are the text."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import InputError
from tutelage.suggest import missing_file

PIECE = 512
"""Characters of a piece, at most. Pieces are what is held out and measured, each by itself, so that tokenizers are compared alike."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Piece:
    """A stretch of a file. line: where it begins, from 1."""

    text: str
    file: str
    line: int


def read_corpus(paths: Sequence[Path], longest: int = PIECE) -> tuple[Piece, ...]:
    """The pieces of all files, in order. Raises `InputError` for files that are missing, empty or not UTF-8 (naming the byte)."""
    if not paths:
        raise InputError("name at least one file of text in the language", field="--text")
    return tuple(piece for path in paths for piece in _cut(read_text(path), str(path), longest))


def read_text(path: Path) -> str:
    """The text of a file, without a byte-order mark. Raises `InputError` as `read_corpus` does."""
    if not path.is_file():
        raise missing_file(path)
    content = path.read_bytes()
    try:
        text = content.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError as wrong:
        raise InputError(
            f"this is not UTF-8: byte {wrong.start} is 0x{content[wrong.start]:02x} ({wrong.reason}). Save the file as UTF-8",
            file=path,
            line=content.count(b"\n", 0, wrong.start) + 1,
        ) from None
    if not text.strip():
        raise InputError("there is no text in this file", file=path)
    return text


def _cut(text: str, file: str, longest: int) -> Iterator[Piece]:
    """Whole lines together, as many as fit; a longer line by itself, in parts."""
    gathered, begins, number = "", 1, 1
    for line in _LINE.findall(text):
        if gathered and len(gathered) + len(line) > longest:
            yield Piece(gathered, file, begins)
            gathered, begins = "", number
        gathered += line
        while len(gathered) > longest:
            yield Piece(gathered[:longest], file, begins)
            gathered = gathered[longest:]
        number += line.endswith("\n")
    if gathered:
        yield Piece(gathered, file, begins)


def hold_out(pieces: Sequence[Piece], share: float, seed: int) -> tuple[list[Piece], list[Piece]]:
    """(to learn from, held out): a share of the pieces at random, one at least; what the others hold word for word is not held out.

    Raises `InputError` where nothing is left on either side.
    """
    chosen = set(random.Random(seed).sample(range(len(pieces)), max(1, round(share * len(pieces)))))
    learned = [piece for number, piece in enumerate(pieces) if number not in chosen]
    known = {piece.text for piece in learned}
    held = [piece for number, piece in enumerate(pieces) if number in chosen and piece.text not in known]
    if not learned or not held:
        size = sum(len(piece.text) for piece in pieces)
        raise InputError(
            f"there is too little text ({size} characters in {len(pieces)} pieces) to hold some of it out and learn from the rest; "
            "give more, or name a file to measure on",
            field="--held-out",
        )
    return learned, held
