"""The report in a terminal: readable at 80 columns, and without colour."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tutelage.study.advised import advice_tables
from tutelage.study.findings import findings
from tutelage.study.practised import practice_tables
from tutelage.study.results import Report
from tutelage.study.tables import Table, cost_table, score_table

ROOM, WIDE, NAME = 80, 84, 15
"""Columns of a terminal in which the tables fit with every figure on one line; in which long names fit, too; characters of a short name."""
FIGURE = 32
"""Characters of the longest cell that stays on one line; a column with a longer one holds words."""


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the finding, the tables and what must be known to read them."""
    out = console or Console()
    words = findings(report)
    out.print(Text(f"Study {report.study}: {report.tasks.train:,} training and {report.tasks.test:,} test tasks", style="dim"))
    out.print()
    out.print(Text(words.headline, style="bold"))
    for table in (score_table(report), *advice_tables(report), cost_table(report), *practice_tables(report)):
        out.print()
        out.print(Text(table.title, style="bold"))
        out.print(_rich(table, out.width))
    out.print()
    for detail in words.details:
        out.print(_item(detail))


def _rich(table: Table, out_width: int) -> RichTable:
    """Where there is room figures stay on one line and only names wrap; else figures wrap too, so that none is cut."""
    whole = out_width >= ROOM
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    name, *rest = table.columns
    shown.add_column(name, overflow="fold", min_width=10, vertical="top")
    for place, column in enumerate(rest, 1):
        figures = all(len(row[place]) <= FIGURE for row in table.rows)
        shown.add_column(
            _stacked(column), justify="right" if figures else "left", no_wrap=whole and figures, overflow="fold", vertical="top"
        )
    for number, row in enumerate(table.rows):
        cells = (_broken(row[0], out_width), *row[1:])
        shown.add_row(*(Text(cell) for cell in cells), style="dim" if number in table.faint else None)
    return shown


def _broken(name: str, width: int) -> str:
    """A long name is broken behind a hyphen where the terminal is narrow, not in the middle of a word."""
    return name.replace("-", "-\n", 1) if width < WIDE and len(name) > NAME and " " not in name else name


def _stacked(column: str) -> str:
    """Headings of costs stand one word above the other, to keep the columns narrow."""
    return column.replace(" ", "\n") if column.startswith(("learn ", "task ")) else column


def _item(text: str) -> RichTable:
    """A list item with a hanging indent."""
    grid = RichTable.grid(padding=(0, 1, 0, 0))
    grid.add_row("-", Text(text))
    return grid
