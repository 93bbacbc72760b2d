"""Plain data as bytes, for both sides of a wall: nothing is ever executed or constructed but builtins of exactly these types.

None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, nested up to `DEPTH`. A value is one letter for its
type, then a length and a colon, then its bytes or its parts.
"""

from __future__ import annotations

DEPTH = 100
LONGEST = 8_000_000
"""Bytes of one message between two processes."""

_NUMBERED = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset}
_LETTERS = ((list, b"l"), (tuple, b"t"), (set, b"e"), (frozenset, b"z"))


class WireError(ValueError):
    """The value is not plain data, or the bytes are not what `encode` writes."""


def encode(value: object) -> bytes:
    """The bytes of a value; subclasses are sent as what they derive from. Raises `WireError`, naming the type, for anything else."""
    parts: list[bytes] = []
    _write(value, parts, DEPTH)
    return b"".join(parts)


def _write(value: object, parts: list[bytes], depth: int) -> None:
    if depth < 0:
        raise WireError(f"nested deeper than {DEPTH}")
    if value is None or value is True or value is False:
        parts.append(b"N" if value is None else b"T" if value else b"F")
    elif isinstance(value, dict):
        parts.append(b"d%d:" % len(value))
        for key, item in value.items():
            _write(key, parts, depth - 1)
            _write(item, parts, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        parts.append(next(letter for kind, letter in _LETTERS if isinstance(value, kind)) + b"%d:" % len(value))
        for item in value:
            _write(item, parts, depth - 1)
    else:
        parts += _scalar(value)


def _scalar(value: object) -> tuple[bytes, bytes]:
    if isinstance(value, int):
        letter, data = b"i", b"%x" % value
    elif isinstance(value, float):
        letter, data = b"f", float.__repr__(value).encode()
    elif isinstance(value, complex):
        letter, data = b"c", f"{value.real!r} {value.imag!r}".encode()
    elif isinstance(value, str):
        letter, data = b"s", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        letter, data = b"b", bytes(value)
    else:
        raise WireError(f"a value of type `{type(value).__name__}`")
    return letter + b"%d:" % len(data), data


def decode(data: bytes) -> object:
    """The value at the beginning of the bytes; what stands after it is ignored. Raises `WireError` for everything that does not fit."""
    try:
        return _read(data, 0, DEPTH)[0]
    except WireError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise WireError(f"not readable: {error}") from None


def _read(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth < 0:
        raise WireError(f"nested deeper than {DEPTH}")
    letter = data[at : at + 1]
    if letter in (b"N", b"T", b"F") and letter:
        return {b"N": None, b"T": True, b"F": False}[letter], at + 1
    colon = data.index(b":", at, at + 20)
    digits = data[at + 1 : colon]
    if not digits.isdigit():
        raise WireError("a length is missing")
    length, start = int(digits), colon + 1
    if length > len(data) - start:
        raise WireError("cut off")
    if letter in _NUMBERED or letter == b"d":
        return _read_items(data, start, letter, length, depth)
    return _read_scalar(letter, data[start : start + length]), start + length


def _read_items(data: bytes, at: int, letter: bytes, count: int, depth: int) -> tuple[object, int]:
    items: list[object] = []
    for _ in range(2 * count if letter == b"d" else count):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    if letter == b"d":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return _NUMBERED[letter](items), at


def _read_scalar(letter: bytes, data: bytes) -> object:
    if letter == b"i":
        return int(data, 16)
    if letter == b"f":
        return float(data)
    if letter == b"c":
        real, imaginary = data.split(b" ")
        return complex(float(real), float(imaginary))
    if letter == b"s":
        return data.decode("utf-8", "surrogatepass")
    if letter == b"b":
        return data
    raise WireError(f"no type is written {letter!r}")
