"""The report's plots as Plotly figures. Colours are CSS variables (`var(--...)`) that the page resolves for light, dark and print."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from tutelage.records import Record
from tutelage.study.practised import ASK_CURVE, fact_of
from tutelage.study.results import ArmReport, ArmResult, CheapReport, Report
from tutelage.study.statistics import Interval
from tutelage.study.tables import cheap_label, count, duration, money, number

Figure = Any
"""A plotly.graph_objects.Figure; the package ships no types."""

LABEL_WIDTH = 18
SHORT = 1.0
"""Learning without model calls that took fewer seconds in every arm is not worth a plot."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


class Plot(Record):
    """One plot: `figure` is Plotly's JSON (data, layout), `height` is in CSS pixels, `summary` says what it shows to who cannot see it."""

    id: str
    title: str
    summary: str
    height: int
    figure: dict[str, Any]


class Plots(Record):
    """The plots by section, and what could not be plotted, in words."""

    scores: Plot | None
    costs: tuple[Plot, ...]
    experience: Plot | None
    advice: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


def make_plots(report: Report, arms: Sequence[ArmResult], recommended: str | None) -> Plots:
    """All plots that the report has numbers for."""
    if all(arm.score is None for arm in report.arms):
        return Plots(scores=None, costs=(), experience=None)
    marks = {arm.name: Mark.of(place, arm, recommended) for place, arm in enumerate(report.arms)}
    costs, notes = _cost_plots(report, marks) if len(report.arms) > 1 else ((), ())
    experience = _experience_plot(report, arms, marks) if len(report.arms) > 1 else None
    drawn = (_advice_plot(report, marks), _stream_plot(report, marks), _threshold_plot(report, marks))
    advice = tuple(plot for plot in drawn if plot)
    return Plots(scores=_score_plot(report, marks), costs=costs, experience=experience, advice=advice, notes=notes)


class Mark(Record):
    """How an arm is drawn: its letter says which arm it is, its colour only its role."""

    letter: str
    role: str

    @classmethod
    def of(cls, place: int, arm: ArmReport, recommended: str | None) -> Mark:
        """The mark of the arm at this place in the report."""
        role = "base" if place == 0 else "best" if arm.name == recommended else "arm"
        return cls(letter=letter(place), role=role)

    @property
    def colour(self) -> str:
        """A CSS variable of the page."""
        return f"var(--mark-{self.role})"


def letter(place: int) -> str:
    """A, B, ... Z, then numbers."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


# Score with intervals


def _score_plot(report: Report, marks: dict[str, Mark]) -> Plot:
    arms = [arm for arm in report.arms if arm.score is not None]
    cheap = [one for one in report.cheap if one.score is not None]
    labels = [_wrapped(arm.name) for arm in arms] + [_wrapped(cheap_label(one.name)) for one in cheap]
    figure = go.Figure([_arm_dots(arms, marks), _cheap_dots(cheap, len(arms))])
    for one in cheap:
        figure.add_vline(x=one.score, line={"color": "var(--mark-cheap)", "width": 1, "dash": "dot"}, layer="below")
    _lay_out(figure, x="score", margin_left=10)
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.5, -0.5], showgrid=False, automargin=True
    )
    figure.update_xaxes(range=_score_range([*arms, *cheap]))
    summary = "; ".join(f"{arm.name} {number(arm.score)}" for arm in arms)
    return Plot(id="plot-scores", title="Score", summary=summary, height=70 + 46 * len(labels), figure=_data(figure))


def _arm_dots(arms: Sequence[ArmReport], marks: dict[str, Mark]) -> Figure:
    return go.Scatter(
        x=[arm.score for arm in arms],
        y=list(range(len(arms))),
        error_x=_error([(arm.score, arm.ci) for arm in arms], "var(--soft)"),
        **_lettered([marks[arm.name] for arm in arms]),
        hovertext=[_hover(arm) for arm in arms],
        hoverinfo="text",
    )


def _cheap_dots(cheap: Sequence[CheapReport], below: int) -> Figure:
    return go.Scatter(
        x=[one.score for one in cheap],
        y=[below + place for place in range(len(cheap))],
        error_x=_error([(one.score, one.ci) for one in cheap], "var(--mark-cheap)"),
        mode="markers",
        marker={"symbol": "diamond-open", "size": 12, "color": "var(--mark-cheap)", "line": {"width": 2}},
        hovertext=[f"{cheap_label(one.name)}: {number(one.score)}" for one in cheap],
        hoverinfo="text",
    )


# Score against cost


def _cost_plots(report: Report, marks: dict[str, Mark]) -> tuple[tuple[Plot, ...], tuple[str, ...]]:
    arms = [arm for arm in report.arms if arm.score is not None]
    priced = _all_known(arms, lambda arm: arm.use.usd)
    used = _cost_plot("use-usd", "US$ a task", arms, marks, lambda arm: arm.use.usd, money) if priced else None
    used = used or _cost_plot("use-tokens", "tokens a task, in and out", arms, marks, _use_tokens, count)
    waited = _cost_plot("use-seconds", "seconds a task", arms, marks, lambda arm: arm.use.seconds, duration)
    if not any(arm.learn.calls for arm in arms) and max(arm.learn.seconds for arm in arms) < SHORT:
        longest = max(arm.learn.seconds for arm in arms)
        note = (
            f"Learning took no model call in any arm, and at most {duration(longest)} s; so there is no plot against the cost of learning."
        )
        return tuple(plot for plot in (used, waited) if plot), (note,)
    paid = _all_known(arms, lambda arm: arm.learn.usd)
    learned = _cost_plot("learn-usd", "US$ of learning", arms, marks, lambda arm: arm.learn.usd, money) if paid else None
    learned = learned or _cost_plot("learn-tokens", "tokens of learning, in and out", arms, marks, _learn_tokens, count)
    taught = _cost_plot("learn-seconds", "seconds of learning", arms, marks, lambda arm: arm.learn.seconds, duration)
    return tuple(plot for plot in (used, waited, learned, taught) if plot), ()


def _all_known(arms: Sequence[ArmReport], cost: Callable[[ArmReport], float | None]) -> bool:
    """True where every cost is known and not all are 0: else tokens tell more than money."""
    costs = [cost(arm) for arm in arms]
    return None not in costs and any(costs)


def _use_tokens(arm: ArmReport) -> float | None:
    use = arm.use
    return None if use.tokens_in is None or use.tokens_out is None else use.tokens_in + use.tokens_out


def _learn_tokens(arm: ArmReport) -> float | None:
    return float(arm.learn.tokens_in + arm.learn.tokens_out)


def _cost_plot(
    name: str,
    title: str,
    arms: Sequence[ArmReport],
    marks: dict[str, Mark],
    cost: Callable[[ArmReport], float | None],
    written: Callable[[float | None], str],
) -> Plot | None:
    """Score against one kind of cost; None where no arm has any."""
    shown = [arm for arm in arms if cost(arm) is not None]
    if not any(cost(arm) for arm in shown):
        return None
    dots = go.Scatter(
        x=[cost(arm) for arm in shown],
        y=[arm.score for arm in shown],
        error_y=_error([(arm.score, arm.ci) for arm in shown], "var(--faint)"),
        **_lettered([marks[arm.name] for arm in shown]),
        hovertext=[f"{_hover(arm)}<br>{title}: {written(cost(arm))}" for arm in shown],
        hoverinfo="text",
    )
    figure = go.Figure([dots])
    _lay_out(figure, x=title, y="score")
    most = max(cost(arm) or 0.0 for arm in shown)
    figure.update_xaxes(range=[-0.07 * most, 1.1 * most])
    figure.update_yaxes(range=_score_range(shown))
    summary = "; ".join(f"{arm.name}: {written(cost(arm))}, score {number(arm.score)}" for arm in shown)
    return Plot(id=f"plot-{name}", title=f"Score against {title}", summary=summary, height=300, figure=_data(figure))


# Score against experience


def _experience_plot(report: Report, arms: Sequence[ArmResult], marks: dict[str, Mark]) -> Plot | None:
    """Curves that end at all training tasks where arms also learned from parts of them, else a dot an arm at the experiences it holds."""
    measured = {arm.name: arm for arm in arms}
    learned = [
        arm for arm in report.arms[1:] if arm.score is not None and (measured[arm.name].experiences_used or measured[arm.name].curve)
    ]
    if not learned:
        return None
    baseline = report.arms[0]
    curves = any(measured[arm.name].curve for arm in learned)
    ends = {arm.name: report.tasks.train if curves else measured[arm.name].experiences_used for arm in learned}
    lines = [
        _path([*_curve(measured[arm.name]), (float(ends[arm.name]), arm.score)], arm, marks[arm.name], DASHES[place % len(DASHES)])
        for place, arm in enumerate(learned)
    ]
    start = _path([(0.0, baseline.score)], baseline, marks[baseline.name], "solid") if baseline.score is not None else None
    figure = go.Figure([*([start] if start else []), *lines])
    title = "training tasks learned from" if curves else "experiences that the agent holds"
    _lay_out(figure, x=title, y="score")
    most = max(ends.values())
    figure.update_xaxes(range=[-0.05 * most, 1.06 * most])
    figure.update_yaxes(range=_score_range([arm for arm in report.arms if arm.score is not None]))
    summary = "; ".join(f"{arm.name}: {measured[arm.name].experiences_used:,} experiences, score {number(arm.score)}" for arm in learned)
    return Plot(id="plot-experience", title=f"Score against {title}", summary=summary, height=340, figure=_data(figure))


def _curve(measured: ArmResult) -> list[tuple[float, float | None]]:
    return [(float(point.n), point.score) for point in measured.curve]


def _path(points: Sequence[tuple[float, float | None]], arm: ArmReport, mark: Mark, dash: str, form: str = ",.0f") -> Figure:
    """A line through points whose last one carries the arm's letter. form: how their places are written."""
    before = len(points) - 1
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="lines+markers+text",
        cliponaxis=False,
        text=[*[""] * before, mark.letter],
        textfont={"color": "var(--on-mark)", "size": 11},
        marker={"color": mark.colour, "size": [*[7] * before, 21], "opacity": 1, "line": {"width": 0}},
        line={"color": mark.colour, "width": 2, "dash": dash},
        hovertext=[f"{_escaped(arm.name)}<br>{x:{form}}: {number(y)}" for x, y in points],
        hoverinfo="text",
    )


# Advice


def _advice_plot(report: Report, marks: dict[str, Mark]) -> Plot | None:
    """Total score (lettered dots) and accuracy (open circles above them) against advice rate; None where no arm can ask."""
    shown = [(arm, arm.advice) for arm in report.arms if arm.advice is not None and arm.advice.rate is not None]
    if not shown:
        return None
    rates = [advice.rate for _, advice in shown]
    totals = go.Scatter(
        x=rates,
        y=[advice.total for _, advice in shown],
        error_y=_error([(advice.total, advice.total_ci) for _, advice in shown], "var(--faint)"),
        **_lettered([marks[arm.name] for arm, _ in shown]),
        hovertext=[f"{_hover(arm)}<br>advice rate: {number(advice.rate)}" for arm, advice in shown],
        hoverinfo="text",
    )
    colours = [marks[arm.name].colour for arm, _ in shown]
    accuracies = go.Scatter(
        x=rates,
        y=[advice.accuracy for _, advice in shown],
        mode="markers",
        marker={"symbol": "circle-open", "size": 11, "color": colours, "line": {"width": 2}},
        hovertext=[f"{_escaped(arm.name)}<br>accuracy {number(advice.accuracy)}" for arm, advice in shown],
        hoverinfo="text",
    )
    figure = go.Figure([accuracies, totals])
    _lay_out(figure, x="advice rate", y="score")
    figure.update_xaxes(range=[-0.05, 1.05])
    figure.update_yaxes(range=_score_range([arm for arm, _ in shown]))
    parts = (f"{arm.name}: advice {number(of.rate)}, accuracy {number(of.accuracy)}, total {number(of.total)}" for arm, of in shown)
    title = "Total score (letters) and accuracy (circles) against advice rate"
    return Plot(id="plot-advice", title=title, summary="; ".join(parts), height=300, figure=_data(figure))


def _stream_plot(report: Report, marks: dict[str, Mark]) -> Plot | None:
    """The advice rate over the stream, a line an arm that can ask; None where no stream is long enough."""
    asking = [(arm, arm.advice) for arm in report.arms if arm.advice is not None and arm.advice.price is not None and arm.advice.blocks]
    if not asking:
        return None
    lines = [
        _path(
            [(block.first + block.sessions / 2, block.rate) for block in advice.blocks], arm, marks[arm.name], DASHES[place % len(DASHES)]
        )
        for place, (arm, advice) in enumerate(asking)
    ]
    figure = go.Figure(lines)
    _lay_out(figure, x="place in the stream", y="advice rate")
    figure.update_yaxes(range=[-0.04, 1.04])
    last = (f"{arm.name}: {number(of.blocks[0].rate)} at first, {number(of.blocks[-1].rate)} at last" for arm, of in asking)
    return Plot(id="plot-stream", title="Advice rate over the stream", summary="; ".join(last), height=300, figure=_data(figure))


def _threshold_plot(report: Report, marks: dict[str, Mark]) -> Plot | None:
    """What each threshold brought on the training tasks: total score against advice rate, a line an arm that learned when to ask."""
    curves = [(arm, points) for arm in report.arms if (points := _ask_curve(arm))]
    if not curves:
        return None
    lines = [_path(points, arm, marks[arm.name], DASHES[place % len(DASHES)], ".2f") for place, (arm, points) in enumerate(curves)]
    figure = go.Figure(lines)
    _lay_out(figure, x="advice rate", y="total score")
    figure.update_xaxes(range=[-0.05, 1.05])
    best = ((arm, max(points, key=lambda point: point[1] or 0.0)) for arm, points in curves)
    words = "; ".join(f"{arm.name}: best at advice rate {number(rate)}, total score {number(total)}" for arm, (rate, total) in best)
    title = "Total score against advice rate, by threshold, on the training tasks"
    return Plot(id="plot-threshold", title=title, summary=words, height=300, figure=_data(figure))


def _ask_curve(arm: ArmReport) -> list[tuple[float, float | None]]:
    noted = fact_of(arm.facts, ASK_CURVE)
    points = [point for point in noted if isinstance(point, dict)] if isinstance(noted, list) else []
    pairs = [(point.get("advice_rate"), point.get("reward")) for point in points]
    return [(float(rate), float(reward)) for rate, reward in pairs if isinstance(rate, int | float) and isinstance(reward, int | float)]


# Parts


def _lettered(marks: Sequence[Mark]) -> dict[str, Any]:
    return {
        "mode": "markers+text",
        "cliponaxis": False,
        "text": [mark.letter for mark in marks],
        "textfont": {"color": "var(--on-mark)", "size": 11},
        "marker": {"color": [mark.colour for mark in marks], "size": 21, "opacity": 1, "line": {"width": 1, "color": "var(--page)"}},
    }


def _error(values: Sequence[tuple[float | None, Interval | None]], colour: str) -> dict[str, Any]:
    """Error bars from intervals, which need not be symmetrical."""
    above = [ci[1] - score if ci and score is not None else 0 for score, ci in values]
    below = [score - ci[0] if ci and score is not None else 0 for score, ci in values]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour, "thickness": 2, "width": 5}


def _score_range(shown: Sequence[ArmReport | CheapReport]) -> list[float]:
    """From 0 to 1 where the scores lie within; else what they and their intervals need."""
    ends = [end for one in shown for end in (one.score, *(one.ci or ())) if end is not None]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    return [low - 0.04 * (high - low), high + 0.04 * (high - low)]


def _lay_out(figure: Figure, *, x: str, y: str = "", margin_left: int = 52) -> None:
    axis = {"gridcolor": "var(--line)", "zeroline": False, "linecolor": "var(--line)", "fixedrange": True, "tickcolor": "var(--line)"}
    figure.update_layout(
        showlegend=False,
        dragmode=False,
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "var(--ink)"},
        margin={"l": margin_left, "r": 12, "t": 8, "b": 48},
        hoverlabel={"bgcolor": "var(--panel)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}, "align": "left"},
    )
    figure.update_xaxes(title={"text": x, "font": {"size": 13, "color": "var(--soft)"}}, nticks=6, **axis)
    figure.update_yaxes(title={"text": y, "font": {"size": 13, "color": "var(--soft)"}}, **axis)


def _hover(arm: ArmReport) -> str:
    ends = f" ({arm.ci[0]:.3f} to {arm.ci[1]:.3f})" if arm.ci else ""
    return f"{_escaped(arm.name)}<br>score {number(arm.score)}{ends}"


def _wrapped(name: str) -> str:
    return "<br>".join(_escaped(line) for line in textwrap.wrap(name, LABEL_WIDTH, max_lines=3, placeholder="...")) or "(no name)"


def _escaped(text: str) -> str:
    """Plotly reads a few HTML tags in texts; a name is not to be read so."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _data(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(figure.to_json())
    found["layout"].pop("template", None)  # Plotly's default look: the page has its own
    return found
