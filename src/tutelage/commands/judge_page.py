"""The report of a judge as one page that needs nothing else, not even a network. Whatever comes from outside is escaped where it enters."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from tutelage.commands.judge_view import NOT_PROMISED, audit_rows, bins_of, level_rows, promise_words, shared_rows
from tutelage.files import write_atomically
from tutelage.graders.audit import Monitor
from tutelage.graders.certificate import Certificate
from tutelage.graders.guarantee import Calibration
from tutelage.graders.monitored import Trail

Figure = dict[str, Any]
"""Plotly's JSON: data and layout. Colours are CSS variables that the page resolves."""

_AXIS = {"gridcolor": "var(--line)", "zeroline": False, "linecolor": "var(--line)", "fixedrange": True}
_LAYOUT = {
    "showlegend": False,
    "dragmode": False,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"},
    "margin": {"l": 60, "r": 12, "t": 8, "b": 48},
    "hovermode": "closest",
}


def write_page(path: Path, file: Path, certificates: Sequence[Certificate], trail: Trail, standing: str) -> None:
    """Write the page, whole or not at all. Raises `StoreError`."""
    write_atomically(path, render_page(str(file), certificates, trail, standing))


def render_page(name: str, certificates: Sequence[Certificate], trail: Trail, standing: str) -> str:
    """The whole page. name: what people call the judge. Equal input gives an equal page."""
    plots: list[tuple[str, str, Figure]] = []
    levels = []
    for number, certificate in enumerate(certificates, 1):
        drawn = _level_plots(number, certificate.calibration)
        plots += drawn
        title = f"<h2>{f'Level {number}: ' if len(certificates) > 1 else ''}{escape(certificate.model)}</h2>"
        levels.append(title + _table(level_rows(certificate)) + '<div class="plots">' + "".join(map(_box, drawn)) + "</div>")
    history = _history_plot(trail.history)
    plots += [history] if history else []
    scripts = [get_plotlyjs(), files("tutelage.study").joinpath("page", "page.js").read_text(encoding="utf-8")]
    body = [
        f'<header><p class="over">Judge report</p><p class="study">{escape(name)}</p><h1>{escape(standing)}</h1></header>',
        _table(
            [
                ("promised", promise_words(trail.promise, certificates)),
                ("not promised", NOT_PROMISED),
                *shared_rows(trail.promise, certificates),
            ]
        ),
        *levels,
        "<h2>Audits</h2>" + _table(audit_rows(trail)) + (_box(history) if history else ""),
    ]
    return _page(name, "".join(body), plots, scripts)


def _page(name: str, body: str, plots: Sequence[tuple[str, str, Figure]], scripts: Sequence[str]) -> str:
    style = files("tutelage.study").joinpath("page", "page.css").read_text(encoding="utf-8")
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    data = json.dumps([{"id": id, "height": 320, "figure": figure} for id, _, figure in plots], ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(name)}: judge report</title><style>{style}</style></head><body><main>{body}</main>"
        f'<script type="application/json" id="plots">{data}</script>'
        + "".join(f"<script>{script}</script>" for script in scripts)
        + "</body></html>\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(words)}</td></tr>" for name, words in rows)
    return f'<table class="noted"><tbody>{cells}</tbody></table>'


def _box(plot: tuple[str, str, Figure]) -> str:
    id, title, _ = plot
    return f'<figure><h3>{escape(title)}</h3><div id="{id}" role="img" aria-label="{escape(title)}" style="height:320px"></div></figure>'


# plots


def _level_plots(number: int, calibration: Calibration) -> list[tuple[str, str, Figure]]:
    if not calibration.curve:
        return []
    return [
        (
            f"agreement-{number}",
            "Confidence against agreement (dashed: lambda; dotted: as often right as sure)",
            _agreement_plot(calibration),
        ),
        (
            f"walk-{number}",
            "The walk to lambda: disagreement from each confidence on (dashed line: lambda; dotted: alpha)",
            _walk_plot(calibration),
        ),
    ]


def _agreement_plot(calibration: Calibration) -> Figure:
    """A dot for each stretch of confidence, as large as its share of the items; on the dotted line confidence would be honest."""
    bins = bins_of(calibration)
    tops = [calibration.curve[0].threshold, *(one.low for one in bins[:-1])]
    middles = [(one.low + top) / 2 for one, top in zip(bins, tops, strict=True)]
    largest = max(one.n for one in bins)
    low = min(0.0, *middles)
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": middles,
        "y": [one.share for one in bins],
        "marker": {"color": "var(--mark-best)", "size": [8 + 14 * (one.n / largest) ** 0.5 for one in bins]},
        "hovertext": [f"confidence from {one.low:.3g}<br>{one.agree} of {one.n} agree" for one in bins],
        "hoverinfo": "text",
    }
    shapes = [_line(low, 1, low, 1, "var(--faint)", "dot"), *_threshold(calibration)]
    return _figure([dots], shapes, "confidence", "agreement with people", (-0.05, 1.07))


def _walk_plot(calibration: Calibration) -> Figure:
    """From the surest down: what was observed and its upper bound, which must stay below alpha."""
    x = [point.threshold for point in calibration.curve]
    observed = [point.errors / point.accepted for point in calibration.curve]
    bound = [point.bound for point in calibration.curve]
    lines = [
        {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": {"color": colour, "width": 2, "dash": dash}}
        for name, y, colour, dash in (
            ("upper bound", bound, "var(--mark-best)", "solid"),
            ("observed", observed, "var(--mark-cheap)", "dash"),
        )
    ]
    shapes = [_line(min(x), max(x), calibration.alpha, calibration.alpha, "var(--broken)", "dot"), *_threshold(calibration)]
    top = min(1.0, max(4 * calibration.alpha, 1.1 * max(observed)))
    figure = _figure(lines, shapes, "confidence from which it would decide", "disagreement", (-0.02 * top, top))
    figure["layout"] |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.15}}
    figure["layout"]["xaxis"]["autorange"] = "reversed"
    return figure


def _history_plot(history: Sequence[Monitor]) -> tuple[str, str, Figure] | None:
    if not history:
        return None
    steps = {
        "type": "scatter",
        "mode": "lines",
        "x": [one.n for one in history],
        "y": [one.wealth for one in history],
        "line": {"color": "var(--mark-best)", "width": 2},
    }
    limit = {
        **steps,
        "x": [1, len(history)],
        "y": [1 / history[0].delta] * 2,
        "line": {"color": "var(--broken)", "width": 2, "dash": "dot"},
    }
    figure = _figure([steps, limit], [], "audited verdicts", "evidence against it (to 1)", None)
    figure["layout"]["yaxis"] |= {"type": "log", "dtick": 1}
    return "history", "Audits: evidence against the promise; the dotted line withdraws the certificate", figure


def _figure(data: list[Figure], shapes: list[Figure], x: str, y: str, limits: tuple[float, float] | None) -> Figure:
    yaxis = {**_AXIS, "title": {"text": y}, **({"range": list(limits)} if limits else {})}
    return {"data": data, "layout": {**_LAYOUT, "shapes": shapes, "xaxis": {**_AXIS, "title": {"text": x}}, "yaxis": yaxis}}


def _line(x0: float, x1: float, y0: float, y1: float, colour: str, dash: str) -> Figure:
    return {"type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": {"color": colour, "width": 1.5, "dash": dash}}


def _threshold(calibration: Calibration) -> list[Figure]:
    if calibration.threshold is None:
        return []
    line = _line(calibration.threshold, calibration.threshold, 0, 1, "var(--fixed)", "dash")
    return [{**line, "yref": "paper"}]
