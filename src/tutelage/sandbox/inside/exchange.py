"""Messages over a pipe between two processes that do not trust each other: eight hexadecimal digits of length, then plain data."""

from __future__ import annotations

import os

from tutelage.sandbox.inside import wire


def send(number: int, value: object) -> None:
    """Send plain data. Raises `WireError` where it is none or too much of it."""
    data = wire.encode(value)
    if len(data) > wire.LONGEST:
        raise wire.WireError(f"more than {wire.LONGEST} bytes")
    view = memoryview(b"%08x" % len(data) + data)
    while view:
        view = view[os.write(number, view) :]


def receive(number: int) -> object:
    """The next message. Raises EOFError where the other side is gone, `WireError` where it sent something else."""
    header = _exactly(number, 8)
    try:
        length = int(header, 16)
    except ValueError:
        raise wire.WireError("no length") from None
    if not 0 < length <= wire.LONGEST:
        raise wire.WireError(f"a message of {length} bytes")
    return wire.decode(_exactly(number, length))


def _exactly(number: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = os.read(number, min(length - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
