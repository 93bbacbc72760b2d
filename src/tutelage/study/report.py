"""The report of a study: from measured arms to `Report`, and its files `report.json`, `report.md` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.study.abstentions import abstentions
from tutelage.study.advice import advice_reports
from tutelage.study.choice import Choice, choose, differs
from tutelage.study.findings import Evidence, recommend
from tutelage.study.render_html import render_html
from tutelage.study.render_markdown import render_markdown
from tutelage.study.results import ArmReport, ArmResult, Case, CheapReport, CheapResult, Report, TaskCounts, TestRow, UseCost
from tutelage.study.statistics import Comparison, Scores, compare, holm, score_interval, task_scores


def make_report(
    *,
    study: str,
    seed: int,
    n_train: int,
    n_test: int,
    test_looks: int,
    arms: Sequence[ArmResult],
    cheap: Sequence[CheapResult] = (),
    warnings: Sequence[str] = (),
) -> Report:
    """Compare every arm with the first, the baseline, and say in words what was found.

    Deterministic: `seed` seeds the resampling. Raises `ValueError` for no arms, two arms of one name, or cheap scores that do not line up
    with the baseline's test tasks.
    """
    if not arms or len({arm.name for arm in arms}) < len(arms):
        raise ValueError(f"a report needs arms with different names, not {[arm.name for arm in arms]}")
    compared = _Compared(arms, cheap, seed)
    reported = compared.arms()
    cheap_reports = tuple(_cheap_report(result, compared.cheap_scores[result.name], seed) for result in cheap)
    choice = choose(reported, compared.between, compared.beaten)
    evidence = Evidence(
        arms=reported,
        cheap=cheap_reports,
        choice=choice,
        against_cheap={name: compared.with_cheap(choice.arm, name) for name in compared.cheap_scores} if choice else {},
        episodes={arm.name: len(arm.rows) for arm in arms},
        ungraded={arm.name: sum(row.score is None and not row.abstained for row in arm.rows) for arm in arms},
        cut_off={arm.name: sum(not row.stop.finished for row in arm.rows) for arm in arms},
        pairs={name: found.n for name, found in compared.with_baseline.items()},
        tests={name: found.test for name, found in compared.with_baseline.items() if found.test},
        seeds=len({row.seed for arm in arms for row in arm.rows}),
        test_looks=test_looks,
    )
    return Report(
        study=study,
        seed=seed,
        tasks=TaskCounts(train=n_train, test=n_test),
        test_looks=test_looks,
        arms=reported,
        cheap=cheap_reports,
        recommendation=recommend(evidence),
        warnings=tuple(warnings),
    )


def recommended(report: Report, arms: Sequence[ArmResult], cheap: Sequence[CheapResult] = ()) -> Choice | None:
    """The arm that the report calls worth it."""
    compared = _Compared(arms, cheap, report.seed)
    return choose(report.arms, compared.between, compared.beaten)


class _Compared:
    """The paired comparisons of one study."""

    def __init__(self, arms: Sequence[ArmResult], cheap: Sequence[CheapResult], seed: int) -> None:
        self.seed, self.results = seed, {arm.name: arm for arm in arms}
        self.scores: dict[str, Scores] = {arm.name: arm.scores for arm in arms}
        self.cheap_scores = {result.name: _cheap_scores(result, arms[0]) for result in cheap}
        self.baseline = arms[0].name
        self.abstained = abstentions(arms, seed)
        self.advice = advice_reports(arms, seed)
        self.with_baseline = {arm.name: self.between(self.baseline, arm.name) for arm in arms[1:]}

    def between(self, one: str, other: str) -> Comparison:
        """The arm `other` minus the arm `one`."""
        return compare(self.scores[one], self.scores[other], self.seed)

    def with_cheap(self, arm: str, cheap: str) -> Comparison:
        """The arm minus a cheap baseline; an arm's score on a task is first averaged over its seeds."""
        of_arm = {(task_id, 0): score for task_id, score in task_scores(self.scores[arm]).items()}
        return compare(self.cheap_scores[cheap], of_arm, self.seed)

    def beaten(self, arm: str) -> frozenset[str]:
        """The cheap baselines that the arm is shown to beat."""
        found = {name: self.with_cheap(arm, name) for name in self.cheap_scores}
        return frozenset(name for name, one in found.items() if differs(one) and (one.delta or 0.0) > 0)

    def arms(self) -> tuple[ArmReport, ...]:
        """Every arm as it is reported, the baseline first."""
        corrected = holm([found.p for found in self.with_baseline.values()])
        p_holm = dict(zip(self.with_baseline, corrected, strict=True))
        return tuple(self._arm(arm, p_holm.get(arm.name)) for arm in self.results.values())

    def _arm(self, arm: ArmResult, p_holm: float | None) -> ArmReport:
        found = self.with_baseline.get(arm.name, Comparison(n=0))
        scores = list(task_scores(arm.scores).values())
        return ArmReport(
            name=arm.name,
            learner=arm.learner,
            agent_version=arm.agent_version,
            n=len(scores),
            score=fmean(scores) if scores else None,
            ci=score_interval(scores, seed=self.seed),
            delta=found.delta,
            delta_ci=found.interval,
            p=found.p,
            p_holm=p_holm,
            learn=arm.learn,
            use=_use(arm.rows),
            facts=arm.facts,
            abstained=self.abstained.get(arm.name),
            advice=self.advice.get(arm.name),
        )


def _use(rows: Sequence[TestRow]) -> UseCost:
    """Means per episode, graded or not; money is unknown as soon as one price is."""
    if not rows:
        return UseCost()
    usd = [row.usd for row in rows if row.usd is not None]
    return UseCost(
        tokens_in=fmean(row.tokens_in for row in rows),
        tokens_out=fmean(row.tokens_out for row in rows),
        usd=fmean(usd) if len(usd) == len(rows) else None,
        seconds=fmean(row.seconds for row in rows),
    )


def _cheap_scores(cheap: CheapResult, baseline: ArmResult) -> Scores:
    """A cheap baseline's scores by task, in the order of the baseline arm's rows of its first seed."""
    tasks = [row.task_id for row in baseline.rows if row.seed == baseline.rows[0].seed]
    if len(tasks) != len(cheap.scores):
        raise ValueError(f"the cheap baseline {cheap.name} has {len(cheap.scores)} scores for {len(tasks)} test tasks")
    return {(task_id, 0): score for task_id, score in zip(tasks, cheap.scores, strict=True)}


def _cheap_report(cheap: CheapResult, scores: Scores, seed: int) -> CheapReport:
    values = list(task_scores(scores).values())
    return CheapReport(name=cheap.name, score=fmean(values) if values else None, ci=score_interval(values, seed=seed))


def write_report(
    folder: str | Path, report: Report, arms: Sequence[ArmResult], cheap: Sequence[CheapResult] = (), cases: Sequence[Case] = ()
) -> None:
    """Write `report.html`, `report.md` and `report.json` into the folder, each whole or not at all. Raises `StoreError`."""
    choice = recommended(report, arms, cheap)
    best = choice.arm if choice else None
    files: Mapping[str, str] = {
        "report.html": render_html(report, arms, cheap, cases, best),
        "report.md": render_markdown(report, cheap, cases, best),
        "report.json": report.model_dump_json(indent=2) + "\n",
    }
    for name, text in files.items():
        write_atomically(Path(folder) / name, text)


def read_report(run: str | Path) -> Report:
    """The report in a run's folder, or in a `report.json` itself. Raises `InputError` where there is none or it is not one."""
    path = Path(run) if Path(run).suffix == ".json" else Path(run) / "report.json"
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InputError("there is no report here; `tutelage run STUDY.yaml` writes one into the folder of the run", file=path) from None
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise InputError(f"not a report of a study: {first['msg']}. Run the study again to write it anew", file=path, field=field) from None
