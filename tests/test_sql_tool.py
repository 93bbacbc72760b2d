"""Read-only SQL: what it answers, what it refuses, and what it costs at most."""

# ruff: noqa: S608 -- the queries are these tests' own

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tutelage.errors import InputError, ToolError
from tutelage.records import ToolCall, ToolFailure
from tutelage.tool import call_tool
from tutelage.tools.sql import ReadOnlySQL, sql_tool

MAKE = """
CREATE TABLE products (id INTEGER, title TEXT, price REAL, "odd name" TEXT);
INSERT INTO products VALUES (1, 'Lamp', 9.5, NULL), (2, 'Two' || char(10) || 'lines', 20, x'00ff'), (3, 'Chair', 30, '');
CREATE TABLE secrets (word TEXT);
INSERT INTO secrets VALUES ('SECRET');
CREATE VIEW leak AS SELECT word FROM secrets;
"""
ENDLESS = "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t)"


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path | bytes:
    path = tmp_path / "a b?c#%20.db"
    connection = sqlite3.connect(path)
    connection.executescript(MAKE)
    data = connection.serialize()
    connection.close()
    return path if request.param == "file" else data


@pytest.fixture
def reader(database: Path | bytes) -> ReadOnlySQL:
    return ReadOnlySQL(database, tables=("products",), seconds=0.4)


def test_rows_come_as_a_table(reader: ReadOnlySQL) -> None:
    assert (
        reader.query("SELECT id, title, price FROM products ORDER BY id")
        == "id | title | price\n1 | Lamp | 9.5\n2 | Two\\nlines | 20.0\n3 | Chair | 30.0"
    )
    assert reader.query('SELECT "odd name" AS odd FROM products;') == "odd\nNULL\n<2 bytes>\n"
    assert reader.query("SELECT id FROM products WHERE price > 99") == "id\n(no rows)"
    assert reader.query("-- a remark\n/* and one */ values (1), (2)") == "column1\n1\n2"
    assert reader.query("WITH dear AS (SELECT * FROM products WHERE price > 10) SELECT count(*) FROM dear") == "count(*)\n2"
    assert reader.query("EXPLAIN QUERY PLAN SELECT * FROM products").endswith("SCAN products")


def test_rows_and_cells_are_bounded(database: Path | bytes) -> None:
    few = ReadOnlySQL(database, max_rows=2)
    assert few.query("SELECT id FROM products").splitlines()[1:3] == ["1", "2"]
    assert "only the first 2 rows are shown; there are more" in few.query("SELECT id FROM products")
    assert "more" not in few.query("SELECT id FROM products LIMIT 2")
    assert few.query(f"SELECT '{'x' * 1_000}' AS long").endswith("x[... 800 characters more]")
    assert few.query(f"{ENDLESS} SELECT i FROM t").startswith("i\n1\n2\n[only")


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE products",
        "SELECT 1; DROP TABLE products",
        "DELETE FROM products",
        "WITH x AS (SELECT 1) INSERT INTO products SELECT 1, 2, 3, 4",
        "WITH x AS (SELECT 1) DELETE FROM products",
        "EXPLAIN DELETE FROM products",
        "UPDATE products SET price = 0",
        "REPLACE INTO products VALUES (1, 2, 3, 4)",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "VACUUM INTO '/tmp/tutelage-copy.db'",
        "PRAGMA table_info(products)",
        "PRAGMA query_only = OFF",
        "SELECT * FROM pragma_table_info('products')",
        "BEGIN",
        "COMMIT",
        "REINDEX",
        "ANALYZE",
        "",
        "  ;",
        "-- nothing",
        "products",
    ],
)
def test_only_one_select_is_allowed(reader: ReadOnlySQL, query: str) -> None:
    with pytest.raises(ToolError, match="only one SELECT statement is allowed"):
        reader.query(query)
    assert reader.query("SELECT count(*) FROM products") == "count(*)\n3"
    assert not Path("/tmp/tutelage-copy.db").exists()  # noqa: S108 -- it must not be there


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM secrets",
        "SELECT count(*) FROM secrets",
        "SELECT 1 FROM secrets",
        "SELECT rowid FROM main.secrets",
        "SELECT id FROM products WHERE EXISTS (SELECT 1 FROM secrets)",
        "SELECT (SELECT word FROM secrets)",
        "SELECT id FROM products UNION SELECT word FROM secrets",
        "WITH products AS (SELECT * FROM secrets) SELECT * FROM products",
        "WITH leak AS (SELECT * FROM secrets) SELECT count(*) FROM leak",
        "SELECT word FROM (SELECT word FROM secrets) AS products",
        "SELECT * FROM leak",
        "SELECT * FROM sqlite_master",
        "SELECT count(*) FROM sqlite_schema",
        "SELECT * FROM temp.sqlite_master",
        "SELECT * FROM SECRETS",
        'SELECT * FROM "secrets"',
    ],
)
def test_other_tables_cannot_be_read(reader: ReadOnlySQL, query: str) -> None:
    with pytest.raises(ToolError, match=r"cannot be read\. The tables are:\nproducts\(") as raised:
        reader.query(query)
    assert "SECRET'" not in str(raised.value)


def test_a_view_needs_the_tables_it_reads(database: Path | bytes) -> None:
    assert ReadOnlySQL(database).query("SELECT * FROM leak") == "word\nSECRET"
    assert ReadOnlySQL(database, tables=("leak", "Secrets")).query("SELECT * FROM leak") == "word\nSECRET"
    with pytest.raises(ToolError, match="cannot be read"):
        ReadOnlySQL(database, tables=("leak",)).query("SELECT * FROM leak")


@pytest.mark.parametrize(
    "function",
    [
        "load_extension('x')",
        "writefile('/tmp/x', 'y')",
        "readfile('/etc/passwd')",
        "zeroblob(999999999)",
        "randomblob(999999999)",
        "printf('%.*c', 2000000000, 'x')",
    ],
)
def test_dangerous_functions_are_refused(reader: ReadOnlySQL, function: str) -> None:
    with pytest.raises(ToolError, match=r"is not allowed|no such function"):
        reader.query(f"SELECT {function}")


def test_errors_list_what_there_is(reader: ReadOnlySQL) -> None:
    schema = r'products\(id INTEGER, title TEXT, price REAL, "odd name" TEXT\)'
    with pytest.raises(ToolError, match=rf"no such column: p\.prise\. Did you mean `price`\? The tables are:\n{schema}"):
        reader.query("SELECT p.prise FROM products p")
    with pytest.raises(ToolError, match=rf"no such table: product\. Did you mean `products`\? The tables are:\n{schema}"):
        reader.query("SELECT * FROM product")
    with pytest.raises(ToolError, match='SQL error: near "FORM": syntax error'):
        reader.query("SELECT * FORM products")


@pytest.mark.parametrize(
    "query", ["SELECT \0 1", "SELECT '\ud800'", "SELECT ?", "x" * 20_000, "SELECT 'open", "SELECT " + "(" * 5_000, "/*" * 4_000]
)
def test_unreadable_queries_are_observations(reader: ReadOnlySQL, query: str) -> None:
    with pytest.raises(ToolError):
        reader.query(query)


@pytest.mark.parametrize(
    "query",
    [
        f"{ENDLESS} SELECT count(*) FROM t",
        f"{ENDLESS} SELECT i FROM t ORDER BY i DESC",
        f"{ENDLESS} SELECT i FROM t WHERE i < 0",
        "SELECT count(*) FROM products" + "".join(f", products p{number}" for number in range(40)),
    ],
)
def test_endless_queries_are_stopped(reader: ReadOnlySQL, query: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ToolError, match=r"took more than 0\.4 seconds and was stopped"):
        reader.query(query)
    assert time.perf_counter() - began < 3


def test_large_values_are_refused(reader: ReadOnlySQL) -> None:
    long = f"'{'x' * 2_000}'"
    with pytest.raises(ToolError, match="too big"):
        reader.query(f"SELECT replace({long}, 'x', {long})")
    began = time.perf_counter()
    assert reader.query(f"SELECT replace({long}, 'x', 'aaaaaaaaaaaaaaaaaaaa') LIKE '{'%a' * 90}%b' AS found") == "found\n0"
    assert time.perf_counter() - began < 3


def test_broken_text_in_a_cell_is_shown(reader: ReadOnlySQL) -> None:
    assert reader.query("SELECT cast(x'61ff' AS TEXT) AS t") == "t\na\N{REPLACEMENT CHARACTER}"


def test_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript(MAKE)
    connection.close()
    before = path.read_bytes()
    path.chmod(0o444)
    ReadOnlySQL(path).query("SELECT * FROM products")
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.db"]


def test_many_threads_may_ask_at_once(reader: ReadOnlySQL) -> None:
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda number: reader.query(f"SELECT title FROM products WHERE id = {number % 3 + 1}"), range(60)))
    assert said[:3] == ["title\nLamp", "title\nTwo\\nlines", "title\nChair"]
    assert said == said[:3] * 20


def test_what_people_give_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        ReadOnlySQL(tmp_path / "absent.db")
    (tmp_path / "text.db").write_text("this is no database, though it is long enough to look like one " * 20)
    with pytest.raises(InputError, match="not a readable SQLite database"):
        sql_tool(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "a.db").executescript(MAKE).close()
    with pytest.raises(InputError, match=r"there is no table `product`\. Did you mean `products`"):
        sql_tool(tmp_path / "a.db", tables=["product"])
    with pytest.raises(InputError, match="max_rows"):
        sql_tool(tmp_path / "a.db", max_rows=0)


async def test_the_tool_shows_its_schema_and_observes(database: Path | bytes) -> None:
    ask = sql_tool(database, tables=["products"], name="shop_sql", seconds=0.4)
    assert ask.spec.name == "shop_sql"
    assert 'products(id INTEGER, title TEXT, price REAL, "odd name" TEXT)' in ask.spec.description
    assert "secrets" not in ask.spec.description

    async def call(query: str) -> tuple[str, ToolFailure | None]:
        seen = await call_tool(ask, ToolCall(id="1", name="shop_sql", arguments=json.dumps({"query": query})))
        return seen.text, seen.failure

    told = await asyncio.gather(*(call("SELECT count(*) FROM products") for _ in range(20)))
    assert set(told) == {("count(*)\n3", None)}
    assert await call("DROP TABLE products") == ("only one SELECT statement is allowed; this begins with DROP", ToolFailure.RAISED)
