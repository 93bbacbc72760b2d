"""`tutelage label`: a person labels answers in the terminal, one key each."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tutelage.commands.inbox import expert, forgive_input, quote
from tutelage.commands.knowledge_view import safe
from tutelage.commands.label_log import LabelLog, Order, order_of
from tutelage.errors import InputError
from tutelage.graders.labels import KNOWN, Item, Kind, read_items
from tutelage.suggest import unknown

KINDS: tuple[Kind, ...] = ("right_wrong", "score", "pairwise")
UNDO, SKIP, QUIT = "u", "s", "q"

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What arrow keys and their like send: one key, though it is several characters, some of which are keys of ours."""


def label_file(
    file: Path, out: Path, annotator: str | None, *, kind: str | None, columns: str | None, scale: str, seed: int, skipped: bool
) -> None:
    """Label what this annotator has not labelled yet; what was kept before stays. Ends with the items, `q`, Ctrl-C or the input's end."""
    if kind is not None and kind not in KINDS:
        raise InputError(unknown("a kind of label", kind, KINDS), field="--kind")
    if out.absolute() == file.absolute():
        raise InputError("this is the file to be labelled; name another one for the labels", file=out, field="--out")
    items = read_items(file, _columns(columns), kind=next((known for known in KINDS if known == kind), None))
    _check_texts(items, file)
    log = LabelLog(out, items, expert(annotator))
    session = _Session(items, log, seed, _digits(scale), again=log.skipped if skipped else set())
    if log.mended:
        print("half a line at the end of the file was cut off; the item it belonged to comes again")
    forgive_input()
    with _keys() as next_key:
        try:
            session.run(next_key)
        except KeyboardInterrupt:
            print()
    log.bring_up_to_date()
    session.print_summary()


def _columns(text: str | None) -> dict[str, str] | None:
    """`id=qid,a=first` as a mapping."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    for ours, equals, theirs in pairs:
        if not equals or not theirs.strip() or ours.strip() not in KNOWN:
            raise InputError(f"write OURS=THEIRS,... where OURS is one of {', '.join(KNOWN)}", field="--columns")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _digits(scale: str) -> Sequence[str]:
    found = re.fullmatch(r"(\d)-(\d)", scale.strip())
    if found is None or found[1] >= found[2]:
        raise InputError(f"`{scale}` is no scale of single keys; write two digits, as 1-5 or 0-9", field="--scale")
    return [str(digit) for digit in range(int(found[1]), int(found[2]) + 1)]


def _check_texts(items: Sequence[Item], file: Path) -> None:
    for item in items:
        if not item.answers and (item.kind == "pairwise" or not item.task):
            wanted = "a and b" if item.kind == "pairwise" else "task or answer"
            raise InputError(f"item `{item.id}` has no text to show; say with --columns where {wanted} stand", file=file, field="--columns")


@dataclass
class _Session:
    """One person at one terminal. again: items that were skipped and are to be shown again."""

    items: Sequence[Item]
    log: LabelLog
    seed: int
    digits: Sequence[str]
    again: set[str]
    console: Console = field(default_factory=Console)

    def run(self, next_key: Callable[[], str | None]) -> None:
        """Show item after item and keep what is said; after the last one, it may still be taken back."""
        going = True
        while going:
            item = self._next()
            going = self._one(item, next_key) if item is not None else self._at_the_end(next_key)

    def _one(self, item: Item, next_key: Callable[[], str | None]) -> bool:
        order = order_of(item, self.log.annotator, self.seed)
        keys = keys_of(item, order, self.digits)
        self._show(item, order)
        key = self._key(next_key, (*keys, UNDO, SKIP, QUIT), self._legend(item))
        if key is None or key == QUIT:
            return False
        if key == UNDO:
            self._undo()
        elif key == SKIP:
            self.log.skip(item)
            self.again.discard(item.id)
            print("skipped", flush=True)
        else:
            self.log.label(item, keys[key], order)
            print(f"kept: {key}", flush=True)
        return True

    def _at_the_end(self, next_key: Callable[[], str | None]) -> bool:
        legend = f"{UNDO}: undo, {QUIT}: quit"
        print(f"\nThat was the last one. {legend}", flush=True)
        if self._key(next_key, (UNDO, QUIT), legend) != UNDO:
            return False
        self._undo()
        return True

    def _key(self, next_key: Callable[[], str | None], known: Sequence[str], legend: str) -> str | None:
        """The next key that means something here; None where the input has ended."""
        while (key := next_key()) is not None and key not in known:
            print(f"`{safe(key)}` is no key here. {legend}", flush=True)
        return key

    def _undo(self) -> None:
        print("took back the last one" if self.log.undo() else "there is nothing to take back", flush=True)

    def _next(self) -> Item | None:
        done = self.log.labelled | (self.log.skipped - self.again)
        return next((item for item in self.items if item.id not in done), None)

    def _show(self, item: Item, order: Order) -> None:
        labelled = len(self.log.labelled & {one.id for one in self.items})
        title = f"\n{labelled} of {len(self.items)} labelled"
        self.console.print(Text(title, style="bold"))
        if item.task:
            quote(self.console, "task", item.task)
        if item.reference:
            quote(self.console, "a right answer, to compare with", item.reference)
        names = ("answer",) if len(item.answers) == 1 else ("answer 1", "answer 2")
        for name, answer in zip(names, item.answers if order != "ba" else item.answers[::-1], strict=False):
            quote(self.console, name, answer)
        print(self._legend(item), flush=True)

    def _legend(self, item: Item) -> str:
        own = {
            "pairwise": "1: first is better, 2: second is better, t: tie",
            "right_wrong": "r: right, w: wrong",
            "score": f"{self.digits[0]} to {self.digits[-1]}: the score",
        }
        return f"{own[item.kind]}; {SKIP}: skip, {UNDO}: undo, {QUIT}: quit"

    def print_summary(self) -> None:
        """What is done, what is left, and where it lies."""
        ids = {item.id for item in self.items}
        labelled, skipped = len(self.log.labelled & ids), len(self.log.skipped & ids)
        left = len(ids) - labelled - skipped
        print(f"{labelled} of {len(ids)} labelled, {skipped} skipped, {left} left: {self.log.path}")
        if left:
            print("Run the same command again to go on.")
        elif skipped:
            print("Run it with --skipped to see again what was skipped.")


def keys_of(item: Item, order: Order, digits: Sequence[str]) -> dict[str, str | float]:
    """The keys for an item and the labels that they mean, for the item as it is and not as it is shown."""
    if item.kind == "pairwise":
        first, second = ("b", "a") if order == "ba" else ("a", "b")
        return {"1": first, "2": second, "t": "tie"}
    if item.kind == "right_wrong":
        return {"r": "right", "w": "wrong"}
    return {digit: float(digit) for digit in digits}


# -- keys


@contextmanager
def _keys() -> Iterator[Callable[[], str | None]]:
    """What gives the next key, in lower case, None at the end: at a terminal without waiting for Enter, else from standard input."""
    try:
        import termios
        import tty
    except ImportError:  # a system without them
        yield _from_stream
        return
    if not sys.stdin.isatty():
        yield _from_stream
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield _Terminal(terminal).key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _from_stream() -> str | None:
    """The next character that is no blank."""
    while key := sys.stdin.read(1):
        if not key.isspace():
            return key.lower()
    return None


class _Terminal:
    """Single keys of a terminal; those that send a sequence, and blanks, are passed over."""

    def __init__(self, terminal: int) -> None:
        self._terminal, self._waiting = terminal, ""

    def key(self) -> str | None:
        """The next key; None where the terminal is gone, or Ctrl-D was pressed."""
        while True:
            self._waiting = _ESCAPE.sub("", self._waiting).lstrip()
            if self._waiting:
                key, self._waiting = self._waiting[0], self._waiting[1:]
                return None if key == "\x04" else key.lower()
            try:
                read = os.read(self._terminal, 1024)
            except OSError:  # the terminal was closed
                return None
            if not read:
                return None
            self._waiting = read.decode(errors="replace")
