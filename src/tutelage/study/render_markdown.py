"""`report.md`: the report for pull requests and plain readers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tutelage.study.advised import advice_tables
from tutelage.study.cases import Kind, Reading, arm_to_read, labels, of_kind, readings, score_words, shortened, tally
from tutelage.study.findings import findings
from tutelage.study.practised import practice_tables
from tutelage.study.results import Case, CaseAnswer, CheapResult, Report
from tutelage.study.tables import Table, cheap_label, cost_table, score_table

CASES_OF_A_KIND = 3
LONGEST = 600
"""Characters of one text that are shown."""


def render_markdown(report: Report, cheap: Sequence[CheapResult] = (), cases: Sequence[Case] = (), recommended: str | None = None) -> str:
    """The whole file. `recommended`: the arm that is worth it, set in bold and read beside the baseline."""
    words = findings(report)
    counts = f"{report.tasks.train:,} training and {report.tasks.test:,} test tasks, seed {report.seed}"
    lines = [
        f"# Study: {_inline(report.study)}",
        "",
        f"**{words.headline}**",
        "",
        f"{counts}, looks at the test split: {report.test_looks}.",
        "",
    ]
    scores, costs = score_table(report, recommended), cost_table(report, recommended)
    for table in (scores, *advice_tables(report), costs, *practice_tables(report)):
        lines += [f"**{table.title}**", "", *_table(table), ""]
    lines += ["## What to know", "", *(f"- {detail}" for detail in words.details)]
    lines += [f"- The {cheap_label(result.name)}: {_inline(shortened(result.note, LONGEST))}" for result in cheap if result.note]
    lines += [
        "",
        *_cases(report, cases, arm_to_read(report, recommended)),
        "## How it was measured",
        "",
        *(f"- {line}" for line in words.method),
    ]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield _row(["---", *["---" if table.words else "---:"] * (len(table.columns) - 1)])
    for number, row in enumerate(table.rows):
        cells = [_inline(cell) for cell in row]
        yield _row([f"**{cell}**" for cell in cells] if number == table.strong else cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _inline(text: str) -> str:
    """Text from outside on one line, with what Markdown and HTML would read as their own escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _cases(report: Report, cases: Sequence[Case], arm: str | None) -> Iterator[str]:
    baseline = report.arms[0].name
    found = readings(cases, baseline, arm)
    if not found:
        return
    yield f"## Cases to read: {_inline(baseline)}{f' and {_inline(arm)}' if arm else ''}"
    yield from ("", f"{tally(found)}. At most {CASES_OF_A_KIND} of each are shown; report.html has more.", "")
    for kind in Kind:
        for reading in of_kind(found, kind)[:CASES_OF_A_KIND]:
            yield from _case(reading, labels(found)[kind], baseline, arm)


def _case(reading: Reading, label: str, baseline: str, arm: str | None) -> Iterator[str]:
    yield from (f"### {label}: task {_inline(reading.case.task_id)}", "", "Asked:", "", *_block(reading.case.input_text), "")
    if reading.case.expected is not None:
        yield from ("Expected:", "", *_block(reading.case.expected), "")
    yield from _answer(baseline, reading.before)
    if arm and reading.after:
        yield from _answer(arm, reading.after)


def _answer(arm: str, answer: CaseAnswer) -> Iterator[str]:
    words = f"; the grader: {_inline(shortened(answer.words, LONGEST))}" if answer.words else ""
    yield from (f"{_inline(arm)} ({score_words(answer)}{words}):", "", *_block(answer.text), "")


def _block(text: str | None) -> Iterator[str]:
    """A code block whose fence is longer than any run of backticks in the text."""
    shown = shortened(text, LONGEST)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    yield from (f"{fence}text", shown, fence)
