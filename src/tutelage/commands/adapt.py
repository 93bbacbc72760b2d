"""Adapting a model to a language, from the command line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from tutelage.progress import Bars
from tutelage.training.extra import needs_train
from tutelage.training.settings import read_settings


def adapt_files(
    base: str, instruct: str, texts: Sequence[Path], out: Path, *, held_out: Sequence[Path], rows: Path | None, plan: dict[str, Any]
) -> None:
    """Adapt and print the report. Raises what `adapt` does, and `KeyboardInterrupt` after an interruption, with all kept that was done."""
    with needs_train("adapting a model to a language"):
        from tutelage.training.adaptation import AdaptSettings, Sources, adapt
        from tutelage.training.supervised_job import Interrupted
    settings = read_settings(AdaptSettings, plan, "adapt")
    sources = Sources(base, instruct, tuple(texts), tuple(held_out), rows)
    with _stoppable() as stop:
        try:
            report = adapt(sources, out, settings, progress=Bars(), stop=stop)
        except Interrupted:
            raise KeyboardInterrupt from None
    Console().print(Markdown(report.text()))


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a checkpoint is written; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
