"""Files within one workspace: list, find, grep, move, delete. What goes wrong raises `ToolError`, in words for the model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tutelage.errors import ToolError
from tutelage.tool import Tool, tool
from tutelage.tools.text_file import decode
from tutelage.tools.workspace import MAX_BYTES, MAX_DEPTH, Entry, Parts, Workspace

SHOWN_ENTRIES = 300
SHOWN_MATCHES = 100
SEARCH_SECONDS = 5.0
"""Time that one grep may take."""
_PATTERN_CHARACTERS = 1_000
_WORKER = Path(__file__).with_name("line_search.py")


@dataclass(frozen=True)
class _Gathered:
    """The files that a grep reads, and how many it leaves out."""

    files: list[tuple[Parts, bytes]]
    binary: int = 0
    too_much: int = 0

    @property
    def left_out(self) -> str:
        """What was left out, in words."""
        counts = [(self.binary, "binary or unreadable"), (self.too_much, f"beyond the limit of {MAX_BYTES:,} bytes for one search")]
        words = ", ".join(f"{count} {why}" for count, why in counts if count)
        return f"[files left out: {words}]" if words else ""


class Files:
    """List, find, search, move and delete below `root`. Every path is absolute."""

    def __init__(self, root: str | Path | Workspace) -> None:
        self.workspace = root if isinstance(root, Workspace) else Workspace(Path(root))

    def list(self, path: str, depth: int = 1) -> str:
        """List what a folder holds, with the sizes of files in bytes.

        Args:
            path: Absolute path of the folder.
            depth: How many levels of folders to show.
        """
        if depth < 1:
            raise ToolError("depth must be 1 or more")
        parts = self.workspace.parts(path)
        return self._shown(self.workspace.walk(parts, min(depth, MAX_DEPTH))) or "(the folder is empty)"

    def find(self, pattern: str, path: str | None = None) -> str:
        """Find files and folders by name.

        Args:
            pattern: A name with the wildcards *, ? and [abc], such as *.py, or a path below `path`, in which ** stands for any folders.
            path: Absolute path of the folder to look in; all of the workspace where it is left out.
        """
        start = self._folder(path)
        wanted = tuple(name for name in pattern.strip().split("/") if name not in ("", "."))
        if not wanted or ".." in wanted or len(pattern) > _PATTERN_CHARACTERS:
            raise ToolError("the pattern must name files below the folder, such as *.py or src/**/test_*.py")
        wanted = wanted if len(wanted) > 1 else ("**", *wanted)
        below = len(start)
        found = (entry for entry in self.workspace.walk(start) if matches_glob(entry.parts[below:], wanted))
        return self._shown(found) or f"nothing below {self.workspace.text(start)} has a name like {pattern}"

    def grep(self, pattern: str, path: str | None = None, include: str = "*", ignore_case: bool = False) -> str:
        """Find lines of text that match a regular expression; binary files are left out.

        Args:
            pattern: A regular expression (Python's syntax), searched for in each line.
            path: Absolute path of the file or folder to search; all of the workspace where it is left out.
            include: Only files whose name is like this, with the wildcards *, ? and [abc].
            ignore_case: Whether capital and small letters are the same.
        """
        if not pattern or len(pattern) > _PATTERN_CHARACTERS:
            raise ToolError(f"the pattern must have 1 to {_PATTERN_CHARACTERS} characters")
        start = self.workspace.parts(path) if path else ()
        gathered = self._gather(start, include)
        hits, total = _search(pattern, ignore_case, gathered)
        lines = [f"{self.workspace.text(gathered.files[file][0])}:{at}: {text}" for file, at, text in hits]
        more = f"[{total - len(hits)} more matching lines]" if total > len(hits) else ""
        found = "\n".join(lines) or f"no line matches in {len(gathered.files)} files"
        return "\n".join(part for part in (found, more, gathered.left_out) if part)

    def move(self, source: str, destination: str) -> str:
        """Move or rename a file or folder. Nothing is overwritten; folders above the destination are made.

        Args:
            source: Absolute path of what to move.
            destination: Absolute path that it gets, its own name included.
        """
        old, new = self.workspace.parts(source), self.workspace.parts(destination)
        self.workspace.move(old, new)
        return f"moved {self.workspace.text(old)} to {self.workspace.text(new)}"

    def delete(self, path: str, recursive: bool = False) -> str:
        """Delete a file or a folder for good.

        Args:
            path: Absolute path of what to delete.
            recursive: Must be true to delete a folder that is not empty, with all it holds.
        """
        parts = self.workspace.parts(path)
        self.workspace.delete(parts, recursive=recursive)
        return f"deleted {self.workspace.text(parts)}"

    def _folder(self, path: str | None) -> Parts:
        parts = self.workspace.parts(path) if path else ()
        if self.workspace.need(parts) != "folder":
            raise ToolError(f"{self.workspace.text(parts)} is not a folder")
        return parts

    def _shown(self, entries: Iterable[Entry]) -> str:
        every = [self._line(entry) for entry in entries]
        more = [f"[{len(every) - SHOWN_ENTRIES} more]"] if len(every) > SHOWN_ENTRIES else []
        return "\n".join(every[:SHOWN_ENTRIES] + more)

    def _line(self, entry: Entry) -> str:
        ends = {"folder": "/", "file": f"  {entry.size}", "link": "  symbolic link, not followed", "special": "  not a regular file"}
        return self.workspace.text(entry.parts) + ends[entry.kind]

    def _gather(self, start: Parts, include: str) -> _Gathered:
        """The text files to search, until together they have `MAX_BYTES`."""
        if self.workspace.need(start) != "folder":
            return _Gathered([(start, self.workspace.read(start))])
        files: list[tuple[Parts, bytes]] = []
        binary = too_much = used = 0
        for entry in self.workspace.walk(start):
            if entry.kind != "file" or not fnmatchcase(entry.name, include):
                continue
            if used + entry.size > MAX_BYTES:
                too_much += 1
            elif (data := self._text_bytes(entry.parts)) is None:
                binary += 1
            else:
                used += len(data)
                files.append((entry.parts, data))
        return _Gathered(files, binary, too_much)

    def _text_bytes(self, parts: Parts) -> bytes | None:
        try:
            data = self.workspace.read(parts)
        except ToolError:
            return None
        return None if decode(data[:16_384]) is None else data


def matches_glob(path: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the names of a path match those of a pattern, in which ** stands for any number of names, none included."""

    @cache
    def match(at: int, of: int) -> bool:
        if of == len(wanted):
            return at == len(path)
        if wanted[of] == "**":
            return match(at, of + 1) or (at < len(path) and match(at + 1, of))
        return at < len(path) and fnmatchcase(path[at], wanted[of]) and match(at + 1, of + 1)

    return match(0, 0)


def _search(pattern: str, ignore_case: bool, gathered: _Gathered) -> tuple[list[tuple[int, int, str]], int]:
    """The first matching lines as (file, line, text) and the number of all. Raises `ToolError` for a pattern that is wrong or too slow."""
    sizes = [len(data) for _, data in gathered.files]
    request = {"pattern": pattern, "ignore_case": ignore_case, "most": SHOWN_MATCHES, "sizes": sizes}
    body = json.dumps(request).encode() + b"\n" + b"".join(data for _, data in gathered.files)
    try:
        done = subprocess.run(  # noqa: S603 -- our own file; the model's pattern reaches it as data, on its input
            [sys.executable, "-I", "-S", str(_WORKER)], input=body, capture_output=True, timeout=SEARCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"the search took more than {SEARCH_SECONDS:g} seconds and was stopped. Simplify the pattern or narrow `path`"
        ) from None
    replies: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    if not replies or not isinstance(replies[-1], dict):
        raise ToolError("the search ended without a result; simplify the pattern")
    if "error" in replies[-1]:
        raise ToolError(
            f"not a regular expression: {replies[-1]['error']}. Characters such as ( [ . * need a backslash to stand for themselves"
        )
    return [(file, line, text) for file, line, text in replies[:-1]], replies[-1]["matches"]


def files_tools(root: str | Path | Workspace) -> tuple[Tool, ...]:
    """The five tools in a folder: list, find, grep, move, delete."""
    files = Files(root)
    return tuple(tool(method) for method in (files.list, files.find, files.grep, files.move, files.delete))
