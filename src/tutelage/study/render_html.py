"""`report.html`: one file that needs nothing else, not even a network.

Everything from outside (tasks, answers, names, the grader's words) is escaped where it enters, and the page's content security policy
lets only our own scripts run, by their hash, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs

from tutelage.study.advised import advice_tables
from tutelage.study.cases import Kind, Reading, arm_to_read, labels, of_kind, readings, score_words, shortened, tally
from tutelage.study.findings import findings
from tutelage.study.plots import Mark, Plot, Plots, make_plots
from tutelage.study.practised import practice_tables
from tutelage.study.results import ArmResult, Case, CaseAnswer, CheapResult, Report
from tutelage.study.tables import NONE, Table, always_asks, cheap_label, cost_table, score_table

CASES_OF_A_KIND = 100
LONGEST = 3_000
"""Characters of one text that are shown."""


def render_html(
    report: Report,
    arms: Sequence[ArmResult] = (),
    cheap: Sequence[CheapResult] = (),
    cases: Sequence[Case] = (),
    recommended: str | None = None,
) -> str:
    """The whole page. `recommended`: the arm that is worth it, set apart and read beside the baseline. Equal input gives an equal page."""
    words = findings(report)
    plots = make_plots(report, arms, recommended)
    scripts = _scripts(plots)
    marks = [Mark.of(place, arm, recommended) for place, arm in enumerate(report.arms)]
    details = [_words(detail) for detail in words.details]
    details += [f"The {escape(cheap_label(result.name))}: {escape(shortened(result.note, LONGEST))}" for result in cheap if result.note]
    return Template(_asset("page.html")).substitute(
        title=escape(f"{report.study}: study report"),
        style=_asset("page.css"),
        script_hashes=" ".join(_hash(script) for script in scripts),
        study=escape(report.study),
        headline=_figures_aside(_words(words.headline)),
        facts=_facts(report),
        details="".join(f"<li>{detail}</li>" for detail in details),
        score_table=_table(score_table(report, recommended), marks),
        score_plot=_figure(plots.scores, _score_caption(report)),
        advice=_advice(report, plots, marks),
        cost_table=_table(cost_table(report, recommended), marks),
        cost_plots=_cost_plots(plots, report, marks),
        experience=_experience(plots),
        practice=_practice(report, marks),
        cases=_cases(report, cases, arm_to_read(report, recommended)),
        method="".join(f"<li>{_words(line)}</li>" for line in words.method),
        scripts=_data_script(plots) + "".join(f"<script>{script}</script>" for script in scripts),
    )


def _asset(name: str) -> str:
    return files("tutelage.study").joinpath("page", name).read_text(encoding="utf-8")


def _words(text: str) -> str:
    """Escaped words, with `names` set apart and a p value on one line."""
    unbroken = re.sub(r"\bp (&lt;|=) ", r"p&nbsp;\1&nbsp;", escape(text))
    return re.sub(r"`([^`]+)`", r"<b>\1</b>", unbroken)


def _figures_aside(words: str) -> str:
    """The interval and the p value of the headline, set lighter than what they are about."""
    return re.sub(r"\(95% interval [^()]*\)\.?", r'<span class="aside">\g<0></span>', words)


def _facts(report: Report) -> str:
    tasks = f"{report.tasks.train:,} training and {report.tasks.test:,} test tasks"
    looks = "once" if report.test_looks == 1 else f"{report.test_looks:,} times"
    return escape(f"{tasks}, seed {report.seed}, test split looked at {looks}")


# Tables


def _table(table: Table, marks: Sequence[Mark]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(_row(table, number, row, marks) for number, row in enumerate(table.rows))
    kind = ' class="pairs"' if table.pairs else ' class="noted"' if table.words else ""
    return f'<table aria-label="{escape(table.title)}"{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row(table: Table, number: int, row: Sequence[str], marks: Sequence[Mark]) -> str:
    mark = _mark(marks[number]) if number < len(marks) else '<span class="mark none" aria-hidden="true">&#9671;</span>'
    cells = [f'<td><span class="name">{mark}<span>{escape(row[0])}</span></span></td>']
    for label, cell in zip(table.columns[1:], row[1:], strict=True):
        shown = "&ndash;" if cell == NONE else escape(cell) if table.words else escape(cell).replace("-", "&minus;")
        cells.append(f'<td data-label="{escape(label)}"{" class=dash" if cell == NONE else ""}>{shown}</td>')
    kind = "strong" if number == table.strong else "faint" if number in table.faint else ""
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _mark(mark: Mark) -> str:
    return f'<span class="mark {mark.role}" aria-hidden="true">{mark.letter}</span>'


# Plots


def _figure(plot: Plot | None, caption: str = "", *, titled: bool = False) -> str:
    if plot is None:
        return '<p class="note">Nothing was graded: there is no score to plot.</p>' if caption else ""
    title = f"<h3>{escape(plot.title)}</h3>" if titled else ""
    box = f'<div id="{plot.id}" role="img" aria-label="{escape(f"{plot.title}: {plot.summary}")}" style="height:{plot.height}px"></div>'
    return f"<figure>{title}{box}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _cost_plots(plots: Plots, report: Report, marks: Sequence[Mark]) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in plots.notes)
    if not plots.costs:
        return notes
    names = [f"<li>{_mark(mark)}<span>{escape(arm.name)}</span></li>" for mark, arm in zip(marks, report.arms, strict=True)]
    drawn = "".join(_figure(plot, titled=True) for plot in plots.costs)
    return f'<ul class="legend">{"".join(names)}</ul><div class="plots">{drawn}</div>{notes}'


def _score_caption(report: Report) -> str:
    asking = ", or hand over what the advisor says" if any(always_asks(cheap.name) for cheap in report.cheap) else ""
    return f"Dots with 95% intervals; open diamonds and dotted lines need no language model{asking}."


def _advice(report: Report, plots: Plots, marks: Sequence[Mark]) -> str:
    tables = advice_tables(report)
    if not tables:
        return ""
    title = '<section aria-labelledby="advice-title"><h2 id="advice-title">Advice</h2>'
    drawn = "".join(_figure(plot, titled=True) for plot in plots.advice)
    return f'{title}{_marked(report, tables, marks)}<div class="plots">{drawn}</div></section>\n'


def _marked(report: Report, tables: Sequence[Table], marks: Sequence[Mark]) -> str:
    """Tables whose rows each belong to the arm that they begin with."""
    by_arm = {arm.name: mark for arm, mark in zip(report.arms, marks, strict=True)}
    return "".join(f"<h3>{escape(table.title)}</h3>{_table(table, [by_arm[row[0]] for row in table.rows])}" for table in tables)


def _experience(plots: Plots) -> str:
    if plots.experience is None:
        return ""
    title = '<h2 id="experience-title">What experience brings</h2>'
    return f'<section aria-labelledby="experience-title">{title}{_figure(plots.experience, titled=True)}</section>'


def _practice(report: Report, marks: Sequence[Mark]) -> str:
    tables = practice_tables(report)
    if not tables:
        return ""
    shown = _marked(report, tables, marks)
    return f'<section aria-labelledby="practice-title"><h2 id="practice-title">What practice brought</h2>{shown}</section>'


# Cases


def _cases(report: Report, cases: Sequence[Case], arm: str | None) -> str:
    baseline = report.arms[0].name
    found = readings(cases, baseline, arm)
    if not found:
        return ""
    beside = f"<b>{escape(baseline)}</b>" + (f" beside <b>{escape(arm)}</b>" if arm else "")
    intro = f'<p class="note">{beside}: {escape(tally(found))}. {escape(_left_out(found))}</p>'
    shown = [reading for kind in Kind for reading in of_kind(found, kind)[:CASES_OF_A_KIND]]
    articles = "".join(_case(reading, labels(found)[reading.kind], baseline, arm) for reading in shown)
    title = '<h2 id="cases-title">Cases to read</h2>'
    return f'<section class="cases" aria-labelledby="cases-title">{title}{intro}{_filters(found)}{articles}</section>'


def _left_out(found: Sequence[Reading]) -> str:
    if all(len(of_kind(found, kind)) <= CASES_OF_A_KIND for kind in Kind):
        return "What both answered rightly is left out." if any(reading.after for reading in found) else ""
    return f"The first {CASES_OF_A_KIND} of each kind are shown; `tutelage episodes RUN --failed` prints them all.".replace("`", "")


def _filters(found: Sequence[Reading]) -> str:
    """Radio buttons that work without a script, and a search field that a script reveals."""
    counts = {"all": ("All", len(found)), **{kind.value: (labels(found)[kind], len(of_kind(found, kind))) for kind in Kind}}
    offered = {name: (label, number) for name, (label, number) in counts.items() if number}
    radios = [f'<input type="radio" name="show" id="show-{name}"{" checked" if name == "all" else ""}>' for name in offered]
    buttons = [f'<label for="show-{name}">{label} {number:,}</label>' for name, (label, number) in offered.items()]
    search = '<input type="search" id="search" placeholder="Search these cases" aria-label="Search these cases" hidden>'
    return f'{"".join(radios)}<div class="filters">{"".join(buttons)}{search}</div>'


def _case(reading: Reading, label: str, baseline: str, arm: str | None) -> str:
    case = reading.case
    head = f'<header><span class="kind">{label}</span><span>task {escape(case.task_id)}</span></header>'
    sides = _side(baseline, reading.before) + (_side(arm, reading.after) if arm and reading.after else "")
    expected = ""
    if case.expected is not None:
        expected = f'<div class="expected-line"><span>expected</span>{_text(case.expected, "expected")}</div>'
    return (
        f'<article class="case {reading.kind}">{head}{_text(case.input_text, "asked")}{expected}<div class="sides">{sides}</div></article>'
    )


def _side(arm: str, answer: CaseAnswer) -> str:
    words = f'<p class="words">{escape(shortened(answer.words, LONGEST))}</p>' if answer.words else ""
    return f'<div class="side"><h3>{escape(arm)}<span>{score_words(answer)}</span></h3>{_text(answer.text, "answer")}{words}</div>'


def _text(text: str | None, kind: str) -> str:
    return f'<div class="text {kind}">{escape(shortened(text, LONGEST))}</div>'


# Scripts


def _scripts(plots: Plots) -> list[str]:
    """Plotly's library, where there is something to plot, and the page's own script."""
    return [*([get_plotlyjs()] if plots.scores else []), _asset("page.js")]


def _data_script(plots: Plots) -> str:
    """The figures as inert JSON; `<` is escaped so that no text can end the element."""
    drawn: Iterable[Plot | None] = (plots.scores, *plots.advice, *plots.costs, plots.experience)
    data = [plot.model_dump(include={"id", "height", "figure"}) for plot in drawn if plot]
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="plots">{text}</script>'


def _hash(script: str) -> str:
    """What the content security policy calls the script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
