"""One connection to the store's database: opening it, transactions that are whole or not at all, and errors that say the way out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sqlalchemy import URL, Connection, Engine, Executable, NullPool, Row, Select, create_engine, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.sql.expression import Insert

from tutelage.errors import InputError, MissingExtra, StoreError
from tutelage.experience.migrations import migrate
from tutelage.experience.tables import BEGIN_WRITING

BUSY_SECONDS = 60
"""A writer waits so long for another process that is writing."""

_PRAGMAS = (
    "journal_mode=WAL",  # readers do not wait for the writer
    "synchronous=NORMAL",  # a commit survives the death of the process; only a power cut may undo the last ones, never break the file
    "wal_autocheckpoint=4000",  # 16 MB: a checkpoint waits for the disk, and with SQLite's own 1000 that is half the cost of a commit
    "cache_size=-20000",  # 20 MB, so that the indexes of 100k episodes stay in memory
    "foreign_keys=ON",
)

_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

_WAYS_OUT = {
    "SQLITE_FULL": "the disk is full. Free some space and run again; what was stored before is kept",
    "SQLITE_IOERR": "the disk refused (a quota, a limit on file size, or broken). Make room and run again; what was stored before is kept",
    "SQLITE_READONLY": "it may only be read. Change its permissions and its folder's, or choose another place",
    "SQLITE_CANTOPEN": "it cannot be opened or made. Check the folder and its permissions, or choose another place",
    "SQLITE_BUSY": f"another process has kept it locked for {BUSY_SECONDS} s. End that process, or try again later",
    "SQLITE_NOTADB": "it is not an experience store. Choose another file",
    "SQLITE_CORRUPT": "the file is damaged. Restore a copy, or choose another file",
}


class Prepared:
    """A statement compiled once by SQLAlchemy and run by the driver itself, which costs a third of `Connection.execute`."""

    def __init__(self, statement: Select[Any] | Insert, connection: Connection, columns: Sequence[str] | None = None) -> None:
        compiled: Any = statement.compile(dialect=connection.dialect, column_keys=columns)
        self.sql = str(compiled)
        self._names: Sequence[str] | None = compiled.positiontup

    def bind(self, values: Mapping[str, Any]) -> Any:
        """The values in the shape that the driver takes."""
        return values if self._names is None else [values[name] for name in self._names]


class Database:
    """A connection that is shared by the threads and tasks of one process, one at a time."""

    def __init__(self, place: str | Path) -> None:
        url = _url(place)
        self.name = url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
        self._lock = threading.Lock()
        self._owner: int | None = os.getpid()
        self._engine = _engine(url)
        self._errors = (DBAPIError, self._engine.dialect.loaded_dbapi.Error, OverflowError)
        with self._explained():
            self.connection = self._open()
            self._cursor = self.connection.connection.cursor()
        self._begin = BEGIN_WRITING[self.connection.dialect.name]

    def close(self) -> None:
        """Close the connection; twice is fine."""
        with self._lock:
            if self._owner == os.getpid():
                self.connection.close()
            self._owner = None

    def insert(self, table: Any) -> Any:
        """An insert that knows `on_conflict_do_nothing`."""
        return _INSERTS[self.connection.dialect.name](table)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all of it is stored when the block has ended, or nothing of it. It survives `kill -9` from then on."""
        with self._lock:  # one generator, not `with self._mine()`: three of them would cost as much as the commit
            self._check_owner()
            try:
                self._cursor.execute(self._begin)
                yield
                self._cursor.execute("COMMIT")
            except BaseException as error:
                with suppress(*self._errors):  # SQLite may have rolled back by itself, when the disk was full
                    self._cursor.execute("ROLLBACK")
                if isinstance(error, self._errors):
                    raise _explain(self.name, error) from error
                raise

    def run(self, prepared: Prepared, values: Mapping[str, Any]) -> Any:
        """Run one statement within `writing` or `reading`, and give its rows."""
        self._cursor.execute(prepared.sql, prepared.bind(values))
        return self._cursor.fetchall() if self._cursor.description else []

    def execute(self, statement: Executable) -> Sequence[Row[Any]]:
        """Run any statement within `writing`, and give its rows."""
        result = self.connection.execute(statement)
        return result.all() if result.returns_rows else []

    def read(self, prepared: Prepared, values: Mapping[str, Any]) -> Any:
        """The rows of one prepared select."""
        with self._lock:
            self._check_owner()
            try:
                return self.run(prepared, values)
            except self._errors as error:
                raise _explain(self.name, error) from error

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """All rows of a query."""
        with self._mine():
            return self.connection.execute(query).all()

    @contextmanager
    def _mine(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._check_owner()
            yield

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise StoreError(f"{self.name} is closed, or was opened by another process: open it anew here")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _explain(self.name, error) from error

    def _open(self) -> Connection:
        """Connect and migrate. Where several processes open a new file at once, SQLite may refuse without waiting: then try again."""
        until = monotonic() + BUSY_SECONDS
        while True:
            connection = self._engine.connect()
            try:
                self._prepare(connection)
                return connection
            except BaseException as error:
                connection.close()
                if not _is_busy(error) or monotonic() > until:
                    raise
            sleep(0.01)

    def _prepare(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            for pragma in _PRAGMAS:
                connection.exec_driver_sql(f"PRAGMA {pragma}")
        try:
            migrate(connection)
        except StoreError as refused:
            raise StoreError(f"{self.name} {refused}") from None


def _url(place: str | Path) -> URL:
    """The address of a file, `:memory:`, or an SQLAlchemy URL. Makes the folder of a file."""
    text = str(place)
    if "://" in text:
        return _parsed(text)
    if text == ":memory:":
        return URL.create("sqlite", database=text)
    path = Path(text).absolute()
    if path.is_dir():
        raise InputError("is a folder, and the store is a file: name a file in it, such as experience.sqlite", file=text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failed:
        raise StoreError(f"the folder {path.parent} cannot be made: {failed.strerror}. Choose another place") from None
    return URL.create("sqlite", database=str(path))


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise InputError(f"`{text}` is neither a file nor a database's URL, such as postgresql+psycopg://user@host/name") from None
    if url.get_backend_name() not in BEGIN_WRITING:
        raise InputError(f"experience is kept in {' or '.join(BEGIN_WRITING)}, not in {url.get_backend_name()}")
    return url


def _engine(url: URL) -> Engine:
    """One connection, in autocommit mode: transactions are begun where something is written."""
    options = {"check_same_thread": False, "timeout": BUSY_SECONDS} if url.get_backend_name() == "sqlite" else {}
    try:
        return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
    except ModuleNotFoundError as absent:
        package = absent.name or url.get_driver_name()
        raise MissingExtra(package, f"pip install {package}", why=f"A store in {url.get_backend_name()}") from None


def _sqlite_name(error: BaseException) -> str:
    """SQLite's own name of an error, such as SQLITE_FULL or SQLITE_IOERR_WRITE."""
    return getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlite_errorname", None) or ""


def _is_busy(error: BaseException) -> bool:
    return _sqlite_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _explain(name: str, error: Exception) -> StoreError:
    code = _sqlite_name(error)
    for prefix, way_out in _WAYS_OUT.items():
        if code.startswith(prefix):
            return StoreError(f"{name}: {way_out}")
    return StoreError(f"{name}: {error.orig if isinstance(error, DBAPIError) else error}")
