"""What the learners noted, in every rendering of the report."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tutelage.study.practised import practice_tables
from tutelage.study.render_html import render_html
from tutelage.study.render_markdown import render_markdown
from tutelage.study.render_terminal import print_report
from tutelage.study.report import make_report, read_report, write_report
from tutelage.study.results import ArmResult, TestRow

FACTS = {
    "solved_by_attempt": [3, 5, 6],
    "practice_tasks": 10,
    "false_positive_rate": 0.25,
    "kinds": {"ADD": 4, "EDIT": 1, "AGREE": 0},
    "note": "<b>",
}


def arms():
    rows = tuple(TestRow(task_id=str(n), score=float(n % 2)) for n in range(10))
    plain = ArmResult(name="baseline", agent_version="v", rows=rows)
    retry = {"reflexion.solved_by_attempt": [3, 4], "reflexion.practice_tasks": 10, "reflexion.skipped": 0}
    retry |= {"reflexion.stuck": 2, "reflexion.attempts": 9, "expel.insights": 3, "expel.operations": {"add": 0}}
    return [
        plain,
        plain.model_copy(update={"name": "reflexion", "learner": "reflexion", "facts": FACTS}),
        plain.model_copy(update={"name": "both", "learner": "curriculum", "facts": retry}),
    ]


def report(**fields):
    return make_report(study="s", seed=0, n_train=10, n_test=10, test_looks=1, arms=arms(), **fields)


def test_attempts_stand_in_a_table_of_their_own():
    solved, noted = practice_tables(report())
    assert solved.columns == ("arm", "tasks", "1", "2", "3")
    assert solved.rows == (("reflexion", "10", "3", "5", "6"), ("both", "10", "3", "4", "-"))
    assert noted.rows == (
        ("reflexion", "false positive rate 0.250; kinds ADD 4, EDIT 1; note: <b>"),
        ("both", "reflexion: stuck 2; attempts 9; expel: insights 3"),
    )
    assert practice_tables(make_report(study="s", seed=0, n_train=1, n_test=10, test_looks=1, arms=arms()[:1])) == ()


def test_every_rendering_shows_them_and_warnings_come_first(tmp_path):
    warned = report(warnings=["`expel`: a test question stands in what it was taught."])
    out = StringIO()
    print_report(warned, Console(file=out, width=100))
    page, text = render_html(warned, arms()), render_markdown(warned)
    for rendered in (out.getvalue(), page, text):
        assert "Training tasks solved while practising" in rendered
        assert "ADD 4, EDIT 1" in rendered
        assert "stands in what it was taught" in rendered
    assert "note: <b>" not in page and "note: &lt;b&gt;" in page
    write_report(tmp_path, warned, arms())
    assert read_report(tmp_path) == warned
