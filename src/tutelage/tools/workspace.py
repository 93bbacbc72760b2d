"""One folder that tools may work in, and nothing outside it.

Every path is walked from the root, folder by folder, through open directories, and no symbolic link is ever followed: a link that is
swapped in between a check and the use finds nothing to gain. What this does not protect from: other processes that may write into the
folder can change what is inside; a hard link made from outside shows the file it names (writing replaces the link, never the file).
Needs a system with `openat` (Linux, macOS).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Literal

from tutelage.errors import InputError, ToolError
from tutelage.suggest import did_you_mean

Kind = Literal["file", "folder", "link", "special"]
Parts = tuple[str, ...]

MAX_BYTES = 32_000_000
"""Largest file that is read or written, in bytes."""
MAX_ENTRIES = 50_000
"""Entries that one walk looks at."""
MAX_DEPTH = 50
"""Folders below each other that one walk enters."""

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True)
class Entry:
    """Something in a folder. size: bytes of a file, else 0."""

    parts: Parts
    kind: Kind
    size: int = 0

    @property
    def name(self) -> str:
        """Its own name."""
        return self.parts[-1]


@dataclass(frozen=True)
class Workspace:
    """A folder and the operations allowed in it. Paths come as models write them and are turned into `Parts` by `parts`.

    What goes wrong raises `ToolError`, in words for the model. The folder must exist (`InputError`).
    """

    folder: Path

    def __post_init__(self) -> None:
        if os.open not in os.supports_dir_fd:
            raise InputError("a workspace needs a system that opens files relative to a folder (Linux, macOS)")
        if not Path(self.folder).is_dir():
            raise InputError("the workspace must be an existing folder", file=self.folder)

    @cached_property
    def root(self) -> Path:
        """The folder itself, without links."""
        return Path(self.folder).resolve()

    def text(self, parts: Parts) -> str:
        """The absolute path, as the model should write it."""
        return str(self.root.joinpath(*parts))

    def parts(self, path: str) -> Parts:
        """What the path names below the root; () is the root. Raises `ToolError` unless it is absolute and inside."""
        given = path.strip()
        if "\0" in given:
            raise ToolError("a path cannot contain NUL bytes")
        for root in (str(self.root), str(Path(self.folder).absolute())):
            if given == root or given.startswith(root.rstrip("/") + "/"):
                return self._inside(given[len(root) :])
        raise ToolError(self._outside(given))

    def _inside(self, below: str) -> Parts:
        names = tuple(name for name in below.split("/") if name not in ("", "."))
        if ".." in names:
            raise ToolError(f"`..` is not allowed in a path. Write the whole path, beginning with {self.root}/")
        return names

    def _outside(self, given: str) -> str:
        names = [name for name in given.split("/") if name not in ("", ".", "..", "~")]
        rule = f"`{given}` is outside the workspace. Paths are absolute and begin with {self.root}"
        absent = given.startswith("/") and not (self.root.joinpath(*names[:1])).exists()
        return rule if absent or not names else f"{rule}. Did you mean {self.root.joinpath(*names)}?"

    @contextmanager
    def _open(self, parts: Parts) -> Iterator[int]:
        """The folder as an open descriptor."""
        descriptor = os.open(self.root, _DIRECTORY)
        try:
            for name in parts:
                deeper = os.open(name, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _telling(self, parts: Parts) -> Iterator[None]:
        """Turn what the system says into words for the model."""
        try:
            yield
        except FileNotFoundError:
            raise ToolError(f"there is no {self.text(parts)}.{self._near(parts)}") from None
        except (OSError, ValueError) as error:
            link = self._first_link(parts)
            if link:
                raise ToolError(f"{self.text(link)} is a symbolic link; links are not followed") from None
            words = error.strerror if isinstance(error, OSError) else error
            raise ToolError(f"{self.text(parts)}: {words}") from None

    def _near(self, parts: Parts) -> str:
        """The first folder that is missing, or the near names in the last that is there."""
        for count in range(len(parts)):
            kind = self._kind(parts[: count + 1])
            if kind is None:
                with suppress(OSError, ValueError), self._open(parts[:count]) as folder:
                    names = _names(folder)
                    return f" In {self.text(parts[:count])}:{did_you_mean(parts[count], names) or ' nothing of a similar name.'}"
        return ""

    def _first_link(self, parts: Parts) -> Parts | None:
        return next((parts[:count] for count in range(1, len(parts) + 1) if self._kind(parts[:count]) == "link"), None)

    def _kind(self, parts: Parts) -> Kind | None:
        if not parts:
            return "folder"
        with suppress(OSError, ValueError), self._open(parts[:-1]) as folder:
            return _kind_of(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False))
        return None

    def kind(self, parts: Parts) -> Kind | None:
        """What is there; None: nothing. A link is a link, wherever it points."""
        return self._kind(parts)

    def need(self, parts: Parts) -> Kind:
        """What is there; raises `ToolError` where nothing is, or where it cannot be reached."""
        with self._telling(parts):
            if not parts:
                return "folder"
            with self._open(parts[:-1]) as folder:
                return _kind_of(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False))

    def read(self, parts: Parts) -> bytes:
        """The bytes of a file. Raises `ToolError` for anything but a regular file of at most `MAX_BYTES`."""
        self._refuse_other_than_file(parts)
        with self._telling(parts), self._open(parts[:-1]) as folder:
            descriptor = os.open(parts[-1], _READ, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ToolError(f"{self.text(parts)} is not a regular file")
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ToolError(f"{self.text(parts)} has more than {MAX_BYTES:,} bytes, which is too large to read")
        return data

    def _refuse_other_than_file(self, parts: Parts) -> None:
        kind = self.need(parts)
        if kind != "file":
            words = {"folder": "a folder", "link": "a symbolic link; links are not followed", "special": "not a regular file"}
            raise ToolError(f"{self.text(parts)} is {words[kind]}")

    def create(self, parts: Parts, data: bytes) -> None:
        """Write a new file, with the folders above it. Raises `ToolError` where something of that name is there."""
        self._check_size(parts, data)
        with self._telling(parts):
            self._make_folders(parts[:-1])
            with self._open(parts[:-1]) as folder:
                self._write_new(parts[-1], data, folder)

    def replace(self, parts: Parts, data: bytes) -> None:
        """Give an existing file a new content, whole or not at all; its permissions stay."""
        self._check_size(parts, data)
        self._refuse_other_than_file(parts)
        beside = f".{token_hex(8)}.part"
        with self._telling(parts), self._open(parts[:-1]) as folder:
            mode = stat.S_IMODE(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode)
            try:
                self._write_new(beside, data, folder, mode)
                os.replace(beside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside, dir_fd=folder)
                raise

    def _check_size(self, parts: Parts, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise ToolError(f"{self.text(parts)} would have {len(data):,} bytes; at most {MAX_BYTES:,} are written")

    def _write_new(self, name: str, data: bytes, folder: int, mode: int | None = None) -> None:
        descriptor = os.open(name, _NEW, 0o666, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if mode is not None:
                    os.fchmod(descriptor, mode)
        except OSError:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise

    def _make_folders(self, parts: Parts) -> None:
        for count, name in enumerate(parts):
            with self._open(parts[:count]) as folder, suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)

    def move(self, source: Parts, target: Parts) -> None:
        """Give a file or folder another path, with the folders above it. Never overwrites, never moves the root."""
        if not source or not target:
            raise ToolError("the workspace itself cannot be moved or replaced")
        self.need(source)
        if self._kind(target):
            raise ToolError(f"{self.text(target)} exists already; nothing was moved. Give a path that is free")
        if target[: len(source)] == source:
            raise ToolError("a folder cannot be moved into itself")
        with self._telling(target):
            self._make_folders(target[:-1])
            with self._open(source[:-1]) as there, self._open(target[:-1]) as here:
                os.rename(source[-1], target[-1], src_dir_fd=there, dst_dir_fd=here)

    def delete(self, parts: Parts, *, recursive: bool = False) -> None:
        """Remove a file, a link (not what it points to) or a folder; one that is not empty only with `recursive`. Never the root."""
        if not parts:
            raise ToolError("the workspace itself cannot be deleted")
        kind = self.need(parts)
        with self._telling(parts), self._open(parts[:-1]) as folder:
            if kind != "folder":
                os.unlink(parts[-1], dir_fd=folder)
            elif recursive:
                shutil.rmtree(parts[-1], dir_fd=folder)
            else:
                self._remove_empty(parts, folder)

    def _remove_empty(self, parts: Parts, folder: int) -> None:
        count = len(self.entries(parts))
        if count:
            raise ToolError(f"{self.text(parts)} is not empty ({count} entries); give recursive=true to delete it with all it holds")
        os.rmdir(parts[-1], dir_fd=folder)

    def entries(self, parts: Parts) -> list[Entry]:
        """What a folder holds, by name, at most `MAX_ENTRIES`. Raises `ToolError` where it is no folder."""
        if self.need(parts) != "folder":
            raise ToolError(f"{self.text(parts)} is not a folder")
        found: list[Entry] = []
        with self._telling(parts), self._open(parts) as folder:
            for name in _names(folder):
                with suppress(FileNotFoundError):  # gone since it was listed
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    kind = _kind_of(status)
                    found.append(Entry((*parts, name), kind, status.st_size if kind == "file" else 0))
        return found

    def walk(self, parts: Parts = (), depth: int = MAX_DEPTH) -> Iterator[Entry]:
        """Everything below a folder, at most `depth` levels and `MAX_ENTRIES` entries; a folder comes before what it holds."""
        stack = list(reversed(self.entries(parts)))
        left = MAX_ENTRIES
        while stack and left:
            entry, left = stack.pop(), left - 1
            yield entry
            if entry.kind == "folder" and len(entry.parts) - len(parts) < depth:
                with suppress(ToolError):  # not readable, or gone
                    stack += reversed(self.entries(entry.parts))


def _kind_of(status: os.stat_result) -> Kind:
    if stat.S_ISREG(status.st_mode):
        return "file"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return "link" if stat.S_ISLNK(status.st_mode) else "special"


def _names(folder: int) -> list[str]:
    return sorted(os.listdir(folder))[:MAX_ENTRIES]
