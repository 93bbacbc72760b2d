"""The content of a text file, changed without touching what is not meant: other bytes, line ends and a byte order mark stay as they are.

Bytes that are not UTF-8 are carried as lone surrogates (PEP 383) and written back as they were. A line ends with LF, CRLF or CR; the
texts that a model gives are compared and inserted with any of them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

from tutelage.errors import ToolError

NEWLINE = re.compile(r"\r\n|\n|\r")
Span = tuple[int, int]
"""Where something begins and ends in a text."""
_SNIFFED = 8_192
_COMPARED_LINES = 200_000
_COMPARED_CLOSELY = 20


def decode(data: bytes) -> str | None:
    """The text; None for a binary file, which is one with a NUL byte at its beginning."""
    return None if b"\0" in data[:_SNIFFED] else data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes. Raises `ToolError` for half a surrogate pair, which no file can hold."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ToolError("the text has half of a surrogate pair, which no file can hold") from None


def checked(text: str) -> str:
    """The text that a model gave, unless it cannot be written (`ToolError`)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolError("the text has half of a surrogate pair, which no file can hold") from None
    if "\0" in text:
        raise ToolError("the text has a NUL character; only text files are edited here")
    return text


def lines_of(text: str) -> list[str]:
    """The lines without their ends; an end on the last line begins no further one."""
    lines = NEWLINE.split(text)
    return lines[:-1] if not lines[-1] else lines


def newline_of(text: str) -> str:
    """The line end that is used most; LF where there is none."""
    counted = Counter(NEWLINE.findall(text))
    return counted.most_common(1)[0][0] if counted else "\n"


def find_all(text: str, wanted: str) -> Iterator[Span]:
    """Every place where `wanted` stands, overlapping ones too, whatever the line ends; in time linear in the text for each of them."""
    plain, goal = NEWLINE.sub("\n", text), NEWLINE.sub("\n", wanted)
    doubled = [found.start() - number for number, found in enumerate(re.finditer("\r\n", text))]
    at = plain.find(goal)
    while at >= 0:
        end = at + len(goal)
        yield at + bisect_left(doubled, at), end + bisect_left(doubled, end)
        at = plain.find(goal, at + 1)


def replaced(text: str, span: Span, new: str) -> str:
    """The text with a span replaced; line by line the ends of what stood there are kept, further ones are the file's usual."""
    start, end = span
    ends = iter(NEWLINE.findall(text[start:end]))
    usual = newline_of(text)
    changed = NEWLINE.sub(lambda _: next(ends, usual), new)
    return text[:start] + changed + text[end:]


def inserted(text: str, after: int, new: str) -> str:
    """The text with whole lines put in after line `after` (0: before the first), ended as the file usually ends its lines."""
    mark = "\N{BYTE ORDER MARK}" if text.startswith("\N{BYTE ORDER MARK}") else ""
    ends = [len(mark), *(found.end() for found in NEWLINE.finditer(text))]
    usual = newline_of(text)
    if after >= len(ends):  # behind a last line that has no end
        return text + usual + NEWLINE.sub(usual, new)
    before, behind = text[: ends[after]], text[ends[after] :]
    if (before.endswith("\r") and usual == "\n") or (usual == "\r" and behind.startswith("\n")):
        usual = "\r\n"  # else two line ends would become one
    body = NEWLINE.sub(usual, new)
    return before + body + ("" if body.endswith(usual) else usual) + behind


def line_number(text: str, position: int) -> int:
    """The number of the line, from 1, in which a position lies."""
    return len(NEWLINE.findall(text, 0, position)) + 1


def nearest_line(lines: list[str], wanted: str) -> int | None:
    """The index of the line most like the first line of `wanted` that has any words; None where none shares a word."""
    aim = next((line for line in NEWLINE.split(wanted) if line.strip()), "")
    words = set(re.findall(r"\w+", aim[:500]))
    shared = [(len(words.intersection(re.findall(r"\w+", line[:500]))), -at) for at, line in enumerate(lines[:_COMPARED_LINES])]
    best = sorted((score for score in shared if score[0]), reverse=True)[:_COMPARED_CLOSELY]
    likeness = [(SequenceMatcher(None, aim[:500].strip(), lines[-at][:500].strip()).ratio(), at) for _, at in best]
    return -max(likeness)[1] if likeness else None
