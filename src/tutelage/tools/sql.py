"""Read-only SQL over SQLite, as a tool.

Every query gets a connection of its own (so threads do not meet), opened read-only, in which SQLite itself asks before each thing a
statement would do: only SELECT over the allowed tables passes. Bounded are the time, the rows, the cells and the length of any value.
Not bounded is what one query may take of memory and temporary disk space within its seconds; and SQLite looks at the clock between its
steps only, so a few very long ones (`instr` over long texts) can run on behind the tool's own time limit.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from tutelage.errors import InputError, ToolError
from tutelage.suggest import did_you_mean, missing_file
from tutelage.tool import Tool, tool

CELL_CHARACTERS = 200
"""Characters of one value that are shown."""
QUERY_CHARACTERS = 10_000
VALUE_BYTES = 1_000_000
"""Longest value that a query may make or read."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * QUERY_CHARACTERS,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_STEPS = 2_000
"""Steps of SQLite's machine between two looks at the clock."""
_OPENING = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*+([A-Za-z]*)", re.DOTALL)
_READING = ("SELECT", "WITH", "VALUES", "EXPLAIN")
_FILES = ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer")
_LONG = ("printf", "format", "zeroblob", "randomblob")  # one call can run for seconds, or fill the memory
_REFUSED_FUNCTIONS = frozenset((*_FILES, *_LONG))
_ONLY = "only one SELECT statement is allowed"

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


@dataclass(frozen=True)
class ReadOnlySQL:
    """A database that can only be asked. database: an SQLite file, or one in memory as `Connection.serialize` gives it.

    tables: those that may be read (None: all tables and views); a view also needs the tables it reads. Raises `InputError` for a file
    that is absent or no database, and for an unknown table.
    """

    database: Path | bytes
    tables: tuple[str, ...] | None = None
    max_rows: int = 50
    seconds: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.database, Path) and not self.database.is_file():
            raise missing_file(self.database)
        for limit in ("max_rows", "seconds"):
            if not getattr(self, limit) > 0:
                raise InputError(f"must be above 0, not {getattr(self, limit)}", field=limit)
        for name in self.tables or ():
            if name.lower() not in map(str.lower, self._every_table):
                file = None if isinstance(self.database, bytes) else self.database
                raise InputError(f"there is no table `{name}`.{did_you_mean(name, self._every_table)}", file=file, field="tables")

    @cached_property
    def _every_table(self) -> tuple[str, ...]:
        try:
            with self._connection() as connection:
                rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid").fetchall()
        except sqlite3.Error as error:
            raise InputError(f"not a readable SQLite database: {error}", file=str(self.database)[:200], field="database") from error
        return tuple(name for (name,) in rows if not name.startswith("sqlite_"))

    @cached_property
    def columns(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """The columns of each table that may be read, as (name, type)."""
        allowed = {name.lower() for name in self.tables} if self.tables is not None else None
        names = [name for name in self._every_table if allowed is None or name.lower() in allowed]
        with self._connection() as connection:
            found = {name: connection.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall() for name in names}
        return {name: tuple((column, kind) for column, kind in rows) for name, rows in found.items()}

    @property
    def schema(self) -> str:
        """The tables with their columns and types, a line each."""
        lines = []
        for table, columns in self.columns.items():
            named = [" ".join(part for part in (_name(column), kind) if part) for column, kind in columns]
            lines.append(f"{_name(table)}({', '.join(named)})")
        return "\n".join(lines)

    def query(self, sql: str) -> str:
        """The rows of one SELECT as a table of text. Raises `ToolError`, in words for the model, for whatever is wrong with it."""
        self._check(sql)
        refusals: list[str] = []
        late = perf_counter() + self.seconds
        try:
            with self._connection() as connection:
                for limit, most in _LIMITS.items():
                    connection.setlimit(limit, most)
                connection.set_authorizer(self._authorizer(refusals))
                connection.set_progress_handler(lambda: perf_counter() > late, _STEPS)
                cursor = connection.execute(sql)
                rows = cursor.fetchmany(self.max_rows + 1)
                header = [column[0] for column in cursor.description or ()]
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise ToolError(self._words(str(error), refusals, late)) from None
        return self._table(header, rows)

    def _check(self, sql: str) -> None:
        if len(sql) > QUERY_CHARACTERS:
            raise ToolError(f"the query is longer than {QUERY_CHARACTERS} characters")
        if "\0" in sql:
            raise ToolError("a query cannot contain NUL characters")
        found = _OPENING.match(sql)
        first = found[1].upper() if found else ""
        if first not in _READING:
            raise ToolError(f"{_ONLY}; this begins with {first}" if first else f"{_ONLY}, and there is none")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A private connection: the file opened read-only, or a copy of the database in memory."""
        if isinstance(self.database, bytes):
            connection = sqlite3.connect(":memory:")
            connection.deserialize(self.database)
        else:
            connection = sqlite3.connect(f"{self.database.resolve().as_uri()}?mode=ro", uri=True, timeout=self.seconds)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            yield connection
        finally:
            connection.close()

    def _authorizer(self, refusals: list[str]) -> Authorizer:
        """SQLite's question before each thing a statement does; what is refused is noted."""
        real = {name.lower() for name in self._every_table}
        allowed = {name.lower() for name in self.columns}

        def may_read(table: str, database: str | None) -> bool:
            """Without a database it is a table whose rows are counted, or the name of a subquery."""
            name = table.lower()
            return name in allowed or (database is None and name not in real and not name.startswith("sqlite_"))

        def decide(action: int, first: str | None, second: str | None, database: str | None, _: str | None) -> int:
            if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
                return sqlite3.SQLITE_OK
            if action == sqlite3.SQLITE_READ and may_read(first or "", database):
                return sqlite3.SQLITE_OK
            if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _REFUSED_FUNCTIONS:
                return sqlite3.SQLITE_OK
            refusals.append(self._refusal(action, first, second))
            return sqlite3.SQLITE_DENY

        return decide

    def _refusal(self, action: int, first: str | None, second: str | None) -> str:
        if action == sqlite3.SQLITE_READ:
            return f"the table `{first}` cannot be read. The tables are:\n{self.schema}"
        return f"the function {second}() is not allowed here" if action == sqlite3.SQLITE_FUNCTION else _ONLY

    def _words(self, error: str, refusals: Sequence[str], late: float) -> str:
        if refusals:
            return refusals[0]
        if error == "interrupted" and perf_counter() > late:
            return f"the query took more than {self.seconds:g} seconds and was stopped; ask for less"
        if error.startswith("You can only execute one statement"):
            return _ONLY
        unknown = re.match(r"no such (column|table): (?:.*\.)?(.+)", error)
        if unknown:
            known = self.columns if unknown[1] == "table" else [name for columns in self.columns.values() for name, _ in columns]
            return f"SQL error: {error}.{did_you_mean(unknown[2], known)} The tables are:\n{self.schema}"
        return f"SQL error: {error}"

    def _table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
        if not rows:
            return f"{' | '.join(map(_cell, header))}\n(no rows)"
        lines = [" | ".join(map(_cell, row)) for row in (header, *rows[: self.max_rows])]
        if len(rows) > self.max_rows:
            lines.append(f"[only the first {self.max_rows} rows are shown; there are more. Narrow the query, or count with count(*)]")
        return "\n".join(lines)


def _name(name: str) -> str:
    """A name as it stands in a query."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else '"' + name.replace('"', '""') + '"'


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = str(value)
    cut = text[:CELL_CHARACTERS].replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
    return cut if len(text) <= CELL_CHARACTERS else f"{cut}[... {len(text) - CELL_CHARACTERS} characters more]"


def sql_tool(
    database: str | Path | bytes,
    *,
    tables: Sequence[str] | None = None,
    max_rows: int = 50,
    seconds: float = 5.0,
    name: str = "sql",
) -> Tool:
    """A tool that answers SELECT statements over a database; its description lists the tables and columns. See `ReadOnlySQL`."""
    where = database if isinstance(database, bytes) else Path(database)
    reader = ReadOnlySQL(where, tables=None if tables is None else tuple(tables), max_rows=max_rows, seconds=seconds)

    def sql(query: str) -> str:
        return reader.query(query)

    sql.__doc__ = (
        f"Ask the database with one SELECT statement (SQLite). At most {max_rows} rows are shown. The tables are:\n{reader.schema}\n\n"
        "Args:\n    query: The SELECT statement."
    )
    return tool(sql, name=name, seconds=seconds + 5)
