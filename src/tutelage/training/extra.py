"""What is said where the packages of the extra `train` are absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.errors import MissingExtra

INSTALL = "pip install 'tutelage[train]'"


@contextmanager
def needs_train(why: str) -> Iterator[None]:
    """An import that fails inside raises `MissingExtra`, naming what is absent and the command that installs it."""
    try:
        yield
    except ImportError as absent:
        raise MissingExtra(absent.name or "torch", INSTALL, why=why) from None
