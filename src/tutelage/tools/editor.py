"""A text editor for models: view, create, str_replace, insert and undo, within one workspace.

What is not asked for stays byte for byte: line ends, encodings, a byte order mark. Wrong use raises `ToolError` in words that say what
to do next.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import RLock

from tutelage.errors import ToolError
from tutelage.tool import Tool, tool
from tutelage.tools.text_file import (
    Span,
    checked,
    decode,
    encode,
    find_all,
    inserted,
    line_number,
    lines_of,
    nearest_line,
    replaced,
)
from tutelage.tools.workspace import Entry, Parts, Workspace

LEVELS = 20
"""Edits of one file that can be undone."""
KEPT_BYTES = 64_000_000
"""Bytes of earlier contents that are kept for undo, over all files; the oldest are forgotten first."""
VIEW_CHARACTERS = 16_000
"""Characters that one view shows."""
LINE_CHARACTERS = 2_000
LISTED = 300
_AROUND = 3
_NAMED_MATCHES = 10


@dataclass(frozen=True)
class _Edit:
    """One change of a file; before None: it did not exist."""

    parts: Parts
    before: bytes | None
    after: bytes


class Editor:
    """View and change text files below `root`. Every path is absolute. One editor may be used from several threads."""

    def __init__(self, root: str | Path | Workspace) -> None:
        self.workspace = root if isinstance(root, Workspace) else Workspace(Path(root))
        self._edits: list[_Edit] = []
        self._lock = RLock()

    def view(self, path: str, view_range: list[int] | None = None) -> str:
        """Show a text file with numbered lines, or the contents of a folder two levels deep.

        Args:
            path: Absolute path of a file or a folder.
            view_range: First and last line to show, as [first, last]; lines count from 1, and -1 as last means the end of the file.
        """
        parts = self.workspace.parts(path)
        if self.workspace.need(parts) == "folder":
            if view_range is not None:
                raise ToolError("view_range is for files, and this is a folder; leave it out")
            return self._view_folder(parts)
        lines = lines_of(self._text(parts))
        first, last = _range(view_range, len(lines))
        return _numbered(lines, first, last) if lines else "(the file is empty)"

    def create(self, path: str, file_text: str) -> str:
        """Create a new text file, with the folders above it. An existing file is never overwritten.

        Args:
            path: Absolute path of the new file.
            file_text: Its whole content.
        """
        parts = self.workspace.parts(path)
        with self._lock:
            if kind := self.workspace.kind(parts):
                hint = " Change it with str_replace or insert" if kind == "file" else ""
                raise ToolError(f"{self.workspace.text(parts)} exists already and is not overwritten.{hint}")
            data = encode(checked(file_text))
            self.workspace.create(parts, data)
            self._remember(_Edit(parts, None, data))
        return f"created {self.workspace.text(parts)} ({len(lines_of(file_text))} lines)"

    def str_replace(self, path: str, old_str: str, new_str: str = "") -> str:
        """Replace a piece of text that occurs exactly once in a file.

        Args:
            path: Absolute path of the file.
            old_str: The text to replace, exactly as it stands in the file (without line numbers), with enough around it to occur once.
            new_str: What to put in its place; empty to delete it.
        """
        parts = self.workspace.parts(path)
        if not old_str:
            raise ToolError("old_str is empty; give the text to replace, or use insert")
        if old_str == new_str:
            raise ToolError("old_str and new_str are the same; nothing would change")
        with self._lock:
            text = self._text(parts)
            matches = list(islice(find_all(text, old_str), _NAMED_MATCHES + 1))
            if len(matches) != 1:
                raise ToolError(_several(text, matches) if matches else _none(text, old_str))
            self._change(parts, text, replaced(text, matches[0], checked(new_str)))
        at = line_number(text, matches[0][0])
        return self._changed(parts, at, at + len(lines_of(new_str)) - 1)

    def insert(self, path: str, insert_line: int, insert_text: str) -> str:
        """Insert whole lines into a file.

        Args:
            path: Absolute path of the file.
            insert_line: The line after which the text goes; 0 puts it before the first line.
            insert_text: The lines to insert.
        """
        parts = self.workspace.parts(path)
        if not insert_text:
            raise ToolError("insert_text is empty; nothing would change")
        with self._lock:
            text = self._text(parts)
            count = len(lines_of(text))
            if not 0 <= insert_line <= count:
                raise ToolError(f"insert_line must be from 0 to {count}, the number of lines of the file, not {insert_line}")
            self._change(parts, text, inserted(text, insert_line, checked(insert_text)))
        return self._changed(parts, insert_line + 1, insert_line + len(lines_of(insert_text)))

    def undo(self, path: str) -> str:
        """Take back the last edit of a file that was made with create, str_replace or insert.

        Args:
            path: Absolute path of the file.
        """
        parts = self.workspace.parts(path)
        with self._lock:
            edit = next((edit for edit in reversed(self._edits) if edit.parts == parts), None)
            if edit is None:
                raise ToolError(f"there is no edit of {self.workspace.text(parts)} to undo")
            if self.workspace.read(parts) != edit.after:
                raise ToolError(f"{self.workspace.text(parts)} was changed by something else since the last edit, so it cannot be undone")
            if edit.before is None:
                self.workspace.delete(parts)
            else:
                self.workspace.replace(parts, edit.before)
            self._edits.remove(edit)
        left = sum(edit.parts == parts for edit in self._edits)
        did = "removed the file again" if edit.before is None else "undid the last edit"
        return f"{did}: {self.workspace.text(parts)} ({left} earlier edits can be undone)"

    def _text(self, parts: Parts) -> str:
        text = decode(self.workspace.read(parts))
        if text is None:
            raise ToolError(f"{self.workspace.text(parts)} is a binary file; only text is shown and edited")
        return text

    def _change(self, parts: Parts, before: str, after: str) -> None:
        edit = _Edit(parts, encode(before), encode(after))
        self.workspace.replace(parts, edit.after)
        self._remember(edit)

    def _remember(self, edit: _Edit) -> None:
        self._edits.append(edit)
        of_file = [one for one in self._edits if one.parts == edit.parts]
        if len(of_file) > LEVELS:
            self._edits.remove(of_file[0])
        while sum(len(one.before or b"") + len(one.after) for one in self._edits) > KEPT_BYTES:
            del self._edits[0]

    def _changed(self, parts: Parts, first: int, last: int) -> str:
        lines = lines_of(self._text(parts))
        shown = _numbered(lines, max(1, first - _AROUND), min(len(lines), max(first, last) + _AROUND), limit=2_000) if lines else "(empty)"
        return f"changed {self.workspace.text(parts)}:\n{shown}"

    def _view_folder(self, parts: Parts) -> str:
        entries = [entry for entry in self.workspace.walk(parts, 2) if not _within_hidden(entry, len(parts))]
        shown = ["  " * (len(entry.parts) - len(parts)) + _entry_text(entry) for entry in entries[:LISTED]]
        more = [f"[{len(entries) - LISTED} more]"] if len(entries) > LISTED else []
        return "\n".join([f"{self.workspace.text(parts)}/", *shown, *more])


def _within_hidden(entry: Entry, above: int) -> bool:
    return any(name.startswith(".") for name in entry.parts[above:-1])


def _entry_text(entry: Entry) -> str:
    ends = {"folder": "/", "file": f" ({entry.size} bytes)", "link": " (symbolic link, not followed)", "special": " (not a regular file)"}
    return entry.name + ends[entry.kind]


def _range(view_range: list[int] | None, count: int) -> tuple[int, int]:
    if view_range is None:
        return 1, count
    if len(view_range) != 2:
        raise ToolError("view_range must be two numbers: [first, last]")
    first, last = view_range
    last = count if last == -1 else last
    if not 1 <= first <= max(count, 1):
        raise ToolError(f"view_range begins at {first}, but the file has {count} lines, counted from 1")
    if last < first:
        raise ToolError(f"view_range ends ({last}) before it begins ({first}); the file has {count} lines")
    return first, min(last, count)


def _numbered(lines: list[str], first: int, last: int, limit: int = VIEW_CHARACTERS) -> str:
    """Lines with their numbers, as many as fit, and what was left out."""
    shown: list[str] = []
    used = 0
    for number in range(first, last + 1):
        line = f"{number:6}\t{_short(lines[number - 1])}"
        used += len(line) + 1
        if shown and used > limit:
            shown.append(f"[lines {first} to {number - 1} of {len(lines)} are shown; view the rest with view_range]")
            break
        shown.append(line)
    return "\n".join(shown)


def _short(line: str) -> str:
    """At most `LINE_CHARACTERS`, bytes that are not UTF-8 written as escapes."""
    cut = line[:LINE_CHARACTERS].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return cut if len(line) <= LINE_CHARACTERS else f"{cut}[... {len(line) - LINE_CHARACTERS} characters more]"


def _several(text: str, matches: list[Span]) -> str:
    numbers = [str(line_number(text, start)) for start, _ in matches[:_NAMED_MATCHES]]
    more = " and more" if len(matches) > _NAMED_MATCHES else ""
    return f"old_str occurs several times: on lines {', '.join(numbers)}{more}. Add lines around it, so that it occurs once"


def _none(text: str, wanted: str) -> str:
    lines = lines_of(text)
    said = "old_str does not occur in the file"
    if at := _loosely(lines, lines_of(wanted), lambda line: " ".join(line.split())):
        return f"{said}. Lines {at} to {at + len(lines_of(wanted)) - 1} differ from it only in white space: {_short(lines[at - 1])!r}"
    if at := _loosely(lines, lines_of(wanted), _composed):
        return f"{said}. Line {at} has the same characters in another Unicode form; give a part of it without accented letters"
    near = nearest_line(lines, wanted)
    if near is None:
        return f"{said}, which has {len(lines)} lines. View it first"
    return f"{said}, which has {len(lines)} lines. The nearest line is {near + 1}: {_short(lines[near])[:200]!r}"


def _loosely(lines: list[str], wanted: list[str], form: Callable[[str], str]) -> int | None:
    """The number of the first line from which on all lines contain those wanted, both brought into a form; None where there is none."""
    goal = [form(line) for line in wanted]
    if not any(goal):
        return None
    have = [form(line) for line in lines]
    for at in range(len(have) - len(goal) + 1):
        if all(part in have[at + row] if part else not have[at + row] for row, part in enumerate(goal)):
            return at + 1
    return None


def _composed(line: str) -> str:
    return unicodedata.normalize("NFC", line)


def editor_tools(root: str | Path | Workspace) -> tuple[Tool, ...]:
    """The five tools of one `Editor` in a folder: view, create, str_replace, insert, undo. They share their history of edits."""
    editor = Editor(root)
    return tuple(tool(method) for method in (editor.view, editor.create, editor.str_replace, editor.insert, editor.undo))
