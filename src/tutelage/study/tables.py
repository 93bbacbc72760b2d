"""The report's tables and its ways of writing numbers, shared by every rendering so that none disagrees with another."""

from __future__ import annotations

from tutelage.records import Record
from tutelage.study.results import ArmReport, Report
from tutelage.study.statistics import Interval

CHEAP_LABELS = {"constant": "constant answer", "nearest": "nearest case's answer", "ask": "advisor's own answer"}
ASK = "ask"
"""The name of the baseline that always asks for advice and hands it over; at several prices `ask at 0.3`."""
LEARN_COSTS = ("calls", "tokens", "seconds", "US$")
USE_COSTS = ("tokens in", "tokens out", "seconds", "US$")
NONE = "-"
"""Does not apply."""
UNKNOWN = "unknown"


class Table(Record):
    """A table of texts. `pairs`: its cells are short enough to stand two abreast on a narrow page. `words`: its cells hold words.

    `strong` and `faint` are numbers of rows: the recommended arm, and the baselines without a model.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    pairs: bool = False
    words: bool = False
    strong: int | None = None
    faint: tuple[int, ...] = ()


def score_table(report: Report, recommended: str | None = None) -> Table:
    """Scores with their intervals, differences from the baseline, p values; then the baselines without the agent."""
    rows = [_score_row(arm) for arm in report.arms]
    rows += [
        (f"{cheap_label(cheap.name)} ({cheap_note(cheap.name)})", NONE, number(cheap.score), interval(cheap.ci), NONE, NONE, NONE)
        for cheap in report.cheap
    ]
    names = [arm.name for arm in report.arms]
    return Table(
        title="Total scores on the test tasks: less the price of advice" if advised(report) else "Scores on the test tasks",
        columns=("arm", "n", "score", "95% interval", "change", "95% interval", "p (Holm)"),
        rows=tuple(rows),
        strong=names.index(recommended) if recommended in names else None,
        faint=tuple(range(len(report.arms), len(rows))),
    )


def _score_row(arm: ArmReport) -> tuple[str, ...]:
    difference = NONE if arm.delta is None else signed(arm.delta)
    p = NONE if arm.p_holm is None else p_value(arm.p_holm)
    return arm.name, f"{arm.n:,}", number(arm.score), interval(arm.ci), difference, signed_interval(arm.delta_ci), p


def cost_table(report: Report, recommended: str | None = None) -> Table:
    """What learning cost in all, and what use costs a task."""
    names = [arm.name for arm in report.arms]
    return Table(
        title="Costs: of learning in all, and of use per task",
        columns=("arm", *(f"learn {cost}" for cost in LEARN_COSTS), *(f"task {cost}" for cost in USE_COSTS)),
        rows=tuple(_cost_row(arm) for arm in report.arms),
        pairs=True,
        strong=names.index(recommended) if recommended in names else None,
    )


def _cost_row(arm: ArmReport) -> tuple[str, ...]:
    learn, use = arm.learn, arm.use
    learning = count(learn.calls), count(learn.tokens_in + learn.tokens_out), duration(learn.seconds), money(learn.usd)
    return arm.name, *learning, count(use.tokens_in), count(use.tokens_out), duration(use.seconds), money(use.usd)


def advised(report: Report) -> bool:
    """Whether an arm can ask for advice, so that scores are less its price."""
    return any(arm.advice is not None for arm in report.arms)


def cheap_label(name: str) -> str:
    """What people call the cheap baseline."""
    kind, at, price = name.partition(" at ")
    return CHEAP_LABELS.get(kind, kind) + at + price


def always_asks(name: str) -> bool:
    """Whether the cheap baseline is that of always asking for advice."""
    return name.partition(" at ")[0] == ASK


def cheap_note(name: str) -> str:
    """What the cheap baseline does without, in a few words."""
    return "always asks" if always_asks(name) else "no model"


def cheap_words(name: str) -> tuple[str, str]:
    """What people call the cheap baseline, and what it does without, as a sentence has them."""
    return f"the {cheap_label(name)}", "needs no agent" if always_asks(name) else "needs no language model"


def quoted(name: str) -> str:
    """A name as it stands in the words; renderings may set it apart."""
    return f"`{' '.join(name.replace('`', chr(39)).split())}`"


def number(value: float | None) -> str:
    """A score to three decimals."""
    return NONE if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference to three decimals with its sign; what rounds to zero has none."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def interval(ends: Interval | None) -> str:
    """`0.730 to 0.880`."""
    return NONE if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def signed_interval(ends: Interval | None) -> str:
    """`+0.720 to +0.880`."""
    return NONE if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def p_value(p: float) -> str:
    """Three decimals, or that it is smaller."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float | None) -> str:
    """A number of tokens or calls: small means keep one decimal, large ones are in thousands or millions."""
    if value is None:
        return UNKNOWN
    if value >= 100_000:
        return f"{value / 1e6:,.2f}M" if value >= 1_000_000 else f"{value / 1e3:,.0f}k"
    return f"{value:,.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds, with as many decimals as a reader can use."""
    if seconds is None:
        return UNKNOWN
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return "0" if seconds == 0 else f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def money(usd: float | None) -> str:
    """US dollars to three significant digits, cents at least; `unknown` where there is no price."""
    if usd is None:
        return UNKNOWN
    if usd == 0:
        return "0"
    return f"{usd:,.2f}" if usd >= 1 else f"{usd:.3g}" if usd >= 0.0001 else f"{usd:.1e}"
