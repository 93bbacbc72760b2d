"""The finding in plain words. Written once, kept in `Report.recommendation`, and shown by the terminal, Markdown and HTML alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tutelage.records import Record
from tutelage.study.advised import advice_method, advice_words
from tutelage.study.choice import Choice, differs, is_better, is_worse
from tutelage.study.results import ArmReport, CheapReport, Report
from tutelage.study.statistics import (
    ALPHA,
    EXACT_UP_TO,
    LEVEL,
    POWER,
    RESAMPLES,
    Comparison,
    Interval,
    TestName,
    detectable_from,
    fewest_tasks,
    smallest_detectable,
)
from tutelage.study.tables import (
    always_asks,
    cheap_label,
    cheap_words,
    count,
    duration,
    interval,
    money,
    number,
    p_value,
    quoted,
    signed,
    signed_interval,
)

SURE = f"{LEVEL:.0%}"
TESTS = {"mcnemar": "the exact McNemar test", "sign_flip": "a sign-flip permutation test"}
OFTEN_CUT = 0.05
"""A share of cut-off episodes that is worth a line."""


class Evidence(Record):
    """All that the words are made from; mappings go by name of arm or cheap baseline.

    against_cheap: the chosen arm minus each cheap baseline. ungraded, cut_off, episodes: numbers of test episodes. pairs: tasks in the
    comparison with the baseline. tests: which test gave the arm's p value.
    """

    arms: tuple[ArmReport, ...]
    cheap: tuple[CheapReport, ...] = ()
    choice: Choice | None = None
    against_cheap: Mapping[str, Comparison] = {}
    episodes: Mapping[str, int] = {}
    ungraded: Mapping[str, int] = {}
    cut_off: Mapping[str, int] = {}
    pairs: Mapping[str, int] = {}
    tests: Mapping[str, TestName] = {}
    seeds: int = 1
    test_looks: int = 1

    @property
    def chosen(self) -> ArmReport | None:
        """The arm that is worth it."""
        return self.arm(self.choice.arm) if self.choice else None

    @property
    def compared(self) -> list[ArmReport]:
        """The arms that have a p value."""
        return [arm for arm in self.arms if arm.p_holm is not None]

    def arm(self, name: str) -> ArmReport:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


class Findings(Record):
    """The report in words: the finding, what else must be known to read it rightly, and how it was measured."""

    headline: str
    details: tuple[str, ...]
    method: tuple[str, ...]


def findings(report: Report) -> Findings:
    """The words of a report."""
    headline, *details = report.recommendation.split("\n")
    return Findings(
        headline=headline, details=(*(line.removeprefix("- ") for line in report.warnings), *details), method=tuple(_method(report))
    )


def recommend(evidence: Evidence) -> str:
    """The finding and its details, one a line."""
    parts = (
        _on_cheap,
        _on_rival,
        _on_advice,
        _on_costs,
        _on_prices,
        _on_worse,
        _on_undecided,
        _on_incomparable,
        _on_abstained,
        _on_ungraded,
        _on_cut_off,
    )
    details = [line for part in (*parts, _on_looks, _on_tests) for line in part(evidence)]
    return "\n".join([_headline(evidence), *details])


# The headline


def _headline(evidence: Evidence) -> str:
    baseline = evidence.arms[0]
    if all(arm.score is None for arm in evidence.arms):
        return "Nothing was graded, so nothing can be said about any arm."
    if baseline.score is None:
        return f"The baseline {quoted(baseline.name)} has no graded task, so no arm can be compared with it."
    if evidence.chosen:
        return _headline_of(evidence.chosen, evidence)
    score = f"{quoted(baseline.name)} scores {number(baseline.score)} ({SURE} interval {interval(baseline.ci)}) on {_tasks(baseline.n)}"
    if len(evidence.arms) == 1:
        return f"{score}; no other arm was compared with it."
    return f"No arm is shown to be better than the baseline: {score}."


def _headline_of(arm: ArmReport, evidence: Evidence) -> str:
    scores = f"{quoted(arm.name)} scores {number(arm.score)} and the baseline {number(evidence.arms[0].score)}"
    corrected = f", corrected for {len(evidence.compared)} comparisons" if len(evidence.compared) > 1 else ""
    gain = f"{scores}, a gain of {signed(arm.delta or 0.0)} ({SURE} interval {signed_interval(arm.delta_ci)}, {_p(arm.p_holm)}{corrected})"
    unbeaten = [cheap_words(name) for name, found in evidence.against_cheap.items() if found.n and not _beats(found)]
    if unbeaten:
        return f"Better than the baseline, but not shown to be better than {_unbeaten(unbeaten)}: {gain}."
    return f"Worth it: {gain}."


def _unbeaten(cheap: Sequence[tuple[str, str]]) -> str:
    """`the constant answer and the nearest case's answer, which needs no language model`."""
    kinds = list(dict.fromkeys(lacks for _, lacks in cheap))
    return "; nor than ".join(f"{_listed([label for label, of in cheap if of == lacks])}, which {lacks}" for lacks in kinds)


# The details, one function a subject


def _on_cheap(evidence: Evidence) -> Iterator[str]:
    scored = [cheap for cheap in evidence.cheap if cheap.score is not None]
    if evidence.chosen is None:
        yield from _on_cheap_alone(scored, evidence)
        return
    arm = quoted(evidence.chosen.name)
    for cheap in scored:
        found = evidence.against_cheap.get(cheap.name, Comparison(n=0))
        if found.delta is None:
            continue
        against = f"by {signed(found.delta)} ({SURE} interval {signed_interval(found.interval)}, {_p(found.p)}, uncorrected)"
        told = "{}, which {} and scores {}".format(*cheap_words(cheap.name), number(cheap.score))
        if _beats(found):
            yield f"{arm} beats {told}, {against}."
        elif differs(found):
            yield f"{arm} is worse than {told}, {against}: use that instead."
        else:
            yield f"{arm} cannot be told apart from {told}: it differs {against}."


def _on_cheap_alone(scored: Sequence[CheapReport], evidence: Evidence) -> Iterator[str]:
    if not scored:
        return
    without = [f"the {cheap_label(cheap.name)} scores {number(cheap.score)}" for cheap in scored if not always_asks(cheap.name)]
    asking = [f"the {cheap_label(cheap.name)} scores {number(cheap.score)}" for cheap in scored if always_asks(cheap.name)]
    if without:
        yield f"For scale, without a language model: {_listed(without)}."
    if asking:
        yield f"For scale, without the agent, its price taken off: {_listed(asking)}."
    top = max(arm.score for arm in evidence.arms if arm.score is not None) if any(arm.score is not None for arm in evidence.arms) else None
    above = [f"the {cheap_label(cheap.name)}" for cheap in scored if top is not None and cheap.score is not None and cheap.score > top]
    if above:
        yield f"No arm scores as high as {_listed(above)}."


def _on_rival(evidence: Evidence) -> Iterator[str]:
    choice = evidence.choice
    if choice is None or choice.rival is None or choice.against_rival is None:
        return
    found, rival = choice.against_rival, evidence.arm(choice.rival)
    against = f"{signed(found.delta or 0.0)} ({SURE} interval {signed_interval(found.interval)}, {_p(found.p)}, uncorrected)"
    score = f"{quoted(rival.name)} ({number(rival.score)})"
    if choice.saving is not None:
        yield f"{score} scores higher, but within noise: the difference is {against}."
        yield f"{quoted(choice.arm)} is preferred because it uses {choice.saving:.0%} {choice.measure} a task."
    elif differs(found):
        yield f"{quoted(choice.arm)} is also better than the next best arm, {score}: {against}."
    else:
        missing = _listed([f"the {cheap_label(name)}" for name in choice.unbeaten])
        why = f"cheaper, but not shown to beat {missing}" if missing else "not clearly cheaper"
        yield f"{quoted(choice.arm)} cannot be told apart from the next best arm, {score}: {against}. That one is {why}."


def _on_advice(evidence: Evidence) -> Iterator[str]:
    yield from advice_words(evidence.arms)


def _on_costs(evidence: Evidence) -> Iterator[str]:
    arm, baseline = evidence.chosen, evidence.arms[0]
    if arm is None:
        return
    learn = arm.learn
    calls = f"{learn.calls:,} model calls, {count(learn.tokens_in + learn.tokens_out)} tokens" if learn.calls else "no model call"
    if arm.learner:
        yield f"Learning {quoted(arm.name)} took {calls}, {duration(learn.seconds)} s and {_money(learn.usd)}."
    yield f"With {quoted(arm.name)} a task takes {_use(arm)}; with the baseline {_use(baseline)}."


def _use(arm: ArmReport) -> str:
    use = arm.use
    return f"{count(use.tokens_in)} tokens in, {count(use.tokens_out)} out, {duration(use.seconds)} s, {_money(use.usd)}"


def _on_prices(evidence: Evidence) -> Iterator[str]:
    unknown = [quoted(arm.name) for arm in evidence.arms if arm.use.usd is None or arm.learn.usd is None]
    if unknown:
        yield f"Cost in money is unknown for {_listed(unknown)}: no price is known for the model."


def _on_worse(evidence: Evidence) -> Iterator[str]:
    worse = [_difference(arm) for arm in evidence.compared if is_worse(arm)]
    if worse:
        yield f"Worse than the baseline: {_listed(worse)}."


def _on_undecided(evidence: Evidence) -> Iterator[str]:
    undecided = [arm for arm in evidence.compared if not is_better(arm) and not is_worse(arm)]
    if not undecided:
        return
    n = min(evidence.pairs.get(arm.name, arm.n) for arm in undecided)
    listed = _listed([_difference(arm) for arm in undecided])
    yield f"Cannot be told apart from the baseline with n={n}: {listed}. {_reach(n, undecided, evidence)}"


def _reach(n: int, undecided: Sequence[ArmReport], evidence: Evidence) -> str:
    """What a comparison of n tasks could have shown, at the level that Holm asks of the first of several."""
    alpha = ALPHA / max(1, len(evidence.compared))
    if n < fewest_tasks(alpha):
        return f"With {_tasks(n)} no gain, however large, could be shown."
    score = evidence.arms[0].score
    exact = all(evidence.tests.get(arm.name) == "mcnemar" for arm in undecided)
    least = smallest_detectable(n, score, alpha=alpha) if exact else max(detectable_from(arm.delta_ci, alpha=alpha) for arm in undecided)
    if math.isfinite(least):
        missed = f"a test of this size misses gains below about {least:.2f} more often than one time in {round(1 / (1 - POWER))}"
        return f"Not shown is not the same as absent: {missed}."
    if exact:
        return f"Next to a baseline of {number(score)}, {_tasks(n)} cannot reliably show any gain that is still possible."
    return "Not shown is not the same as absent."


def _on_incomparable(evidence: Evidence) -> Iterator[str]:
    baseline, *others = evidence.arms
    silent = [quoted(arm.name) for arm in others if arm.p_holm is None]
    if silent and baseline.score is not None:
        yield f"Not compared, because no task was graded both there and in the baseline: {_listed(silent)}."


def _on_abstained(evidence: Evidence) -> Iterator[str]:
    for arm in evidence.arms:
        found = arm.abstained
        if found is None:
            continue
        if found.n and found.score is not None:
            share = f"{found.n} of {found.episodes:,} episodes ({found.n / found.episodes:.0%})"
            yield (
                f"The grader abstained from {share} of {quoted(arm.name)}; its score is that of the others. Were all of these failures it "
                f"would be {number(found.score[0])}, were all successes {number(found.score[1])} ({SURE} interval, whatever they are: "
                f"{interval(found.ci)})."
            )
        if found.delta is not None:
            yield (
                f"Whatever the abstentions hide, {quoted(arm.name)} changes the baseline's score by {signed(found.delta[0])} to "
                f"{signed(found.delta[1])} ({SURE} interval {signed_interval(found.delta_ci)}){_depends(found.delta_ci)}."
            )


def _depends(ends: Interval | None) -> str:
    if ends is None:
        return ""
    if ends[0] > 0 or ends[1] < 0:
        return f": a {'gain' if ends[0] > 0 else 'loss'} in every case"
    return ": whether that is a gain depends on what they hide, and on chance"


def _on_ungraded(evidence: Evidence) -> Iterator[str]:
    some = [f"{number} of {evidence.episodes[name]:,} in {quoted(name)}" for name, number in evidence.ungraded.items() if number]
    if some:
        yield (
            f"Episodes that were not graded: {_listed(some)}. They count neither for nor against; a comparison leaves out what lacks a "
            "grade on either side."
        )


def _on_cut_off(evidence: Evidence) -> Iterator[str]:
    often = [
        f"{number} of {evidence.episodes[name]:,} in {quoted(name)}"
        for name, number in evidence.cut_off.items()
        if number and number >= OFTEN_CUT * evidence.episodes[name]
    ]
    if often:
        yield f"Episodes that were cut off by a limit before the agent came to an end: {_listed(often)}."


def _on_looks(evidence: Evidence) -> Iterator[str]:
    if evidence.test_looks > 1:
        yield (
            f"Caution: this test split has been looked at {evidence.test_looks} times. Choosing among attempts by their test score makes "
            "the best of them look better than it is; confirm it on fresh tasks."
        )


def _on_tests(evidence: Evidence) -> Iterator[str]:
    used, k = _listed([TESTS[name] for name in sorted(set(evidence.tests.values()))]), len(evidence.compared)
    seeds = f" Each task was run under {evidence.seeds} seeds; its score is their mean." if evidence.seeds > 1 else ""
    if k > 1:
        yield f"The p values are of {used}, Holm-corrected for {k} comparisons with the baseline.{seeds}"
    elif k == 1:
        yield f"The p value is of {used}; with a single comparison there is nothing to correct.{seeds}"
    elif seeds:
        yield seeds.strip()


# How it was measured


def _method(report: Report) -> Iterator[str]:
    yield (
        f"Score: the mean over those of the {report.tasks.test:,} test tasks that were graded (n); no learner has seen them. Under several "
        "seeds a task's score is the mean over its seeds, so that a task counts once."
    )
    yield from advice_method(report)
    yield (
        f"Intervals ({SURE}): Wilson's for scores of 0 and 1, otherwise a bootstrap over tasks (BCa, {RESAMPLES:,} resamples, seed "
        f"{report.seed}). They tell how the score may differ on other tasks of this kind; they do not cover the randomness of learning."
    )
    yield (
        "Change: arm minus baseline on the same tasks. Its interval is a bootstrap over tasks, not corrected for the number of arms, "
        "so it may leave out 0 where the corrected p value is not significant. The p value decides."
    )
    yield (
        "p: the exact McNemar test where all task scores are 0 or 1, otherwise a sign-flip permutation test of the mean difference; both "
        f"two-sided (exact where at most {EXACT_UP_TO} tasks differ, else {RESAMPLES:,} flips). p (Holm) is corrected for the number of "
        f"arms; below {ALPHA} counts as significant."
    )
    if any(not always_asks(cheap.name) for cheap in report.cheap):
        yield (
            "Without a language model: the constant answer is the training answer that scores best on training tasks; the nearest case's "
            "answer repeats the most similar training task's. An arm that does not beat them does no better than a lookup."
        )
    yield "Costs: of learning in all, over all seeds; of use as the mean per test episode. Tokens in count the whole prompt, cached or not."
    times = "once" if report.test_looks == 1 else f"{report.test_looks:,} times"
    yield f"Looks: this test split has been looked at {times}. Every look that guides a choice wears it out."
    yield "A dash does not apply; unknown (null in report.json) was not measured or has no known price. Not graded is not 0."


# Words


def _beats(found: Comparison) -> bool:
    return differs(found) and found.delta is not None and found.delta > 0


def _difference(arm: ArmReport) -> str:
    return f"{quoted(arm.name)} ({signed(arm.delta or 0.0)}, {SURE} interval {signed_interval(arm.delta_ci)}, {_p(arm.p_holm)})"


def _p(p: float | None) -> str:
    if p is None:
        return "p unknown"
    return f"p {p_value(p)}".replace("<", "< ") if p < 0.001 else f"p = {p_value(p)}"


def _money(usd: float | None) -> str:
    if usd is None:
        return "an unknown amount of money"
    return "no money" if usd == 0 else f"US$ {money(usd)}"


def _tasks(n: int) -> str:
    return f"{n:,} graded task{'' if n == 1 else 's'}"


def _listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; with semicolons where an item holds a comma."""
    if len(items) < 2:
        return "".join(items)
    comma = "; " if any("," in item for item in items) else ", "
    return f"{comma.join(items[:-1])}{';' if comma == '; ' else ''} and {items[-1]}"
