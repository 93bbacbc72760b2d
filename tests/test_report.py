"""The report: its stable JSON, its words, and its three renderings, attacked with what may come from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tutelage.budget import Cost
from tutelage.errors import InputError, StoreError
from tutelage.records import StopReason
from tutelage.study import results
from tutelage.study.cases import Kind, arm_to_read, labels, readings, tally
from tutelage.study.choice import saved
from tutelage.study.findings import findings
from tutelage.study.plots import make_plots
from tutelage.study.render_html import render_html
from tutelage.study.render_markdown import render_markdown
from tutelage.study.render_terminal import print_report
from tutelage.study.report import make_report, read_report, write_report
from tutelage.study.results import ArmResult, Case, CaseAnswer, CheapResult, CurvePoint, Report, UseCost
from tutelage.study.tables import cost_table, count, duration, money, p_value, score_table, signed

ATTACK = "</script><script>alert('owned')</script><img src=http://evil.example/x onerror=alert(1)>"


def arm(name: str, scores, *, tokens=100, usd=0.0, learner="exemplars", seed=0, **fields) -> ArmResult:
    rows = [
        results.TestRow(task_id=f"t{i}", seed=seed, score=score, tokens_in=tokens, tokens_out=10, usd=usd, seconds=0.5)
        for i, score in enumerate(scores)
    ]
    return ArmResult(name=name, learner=learner, agent_version=f"v-{name}", rows=tuple(rows), **fields)


def baseline(scores, **fields) -> ArmResult:
    return arm("baseline", scores, learner=None, **fields)


def share(right: int, n: int = 50) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def report_of(*arms: ArmResult, cheap=(), looks=1, n_train=300) -> Report:
    return make_report(
        study="helpdesk", seed=0, n_train=n_train, n_test=max(len(one.rows) for one in arms), test_looks=looks, arms=arms, cheap=cheap
    )


def words(report: Report) -> str:
    return report.recommendation


CHEAP = (
    CheapResult(name="constant", note="no()", scores=tuple(share(2))),
    CheapResult(name="nearest", note="by text", scores=tuple(share(20))),
)


@pytest.fixture
def study() -> tuple[Report, list[ArmResult]]:
    arms = [
        baseline(share(5)),
        arm("fixed, k=6", share(7), tokens=220, experiences_used=6),
        arm("meaning, k=6", share(40), tokens=210, learn=Cost(calls=3, tokens_in=900, tokens_out=30, seconds=2.0), experiences_used=300),
    ]
    return report_of(*arms, cheap=CHEAP), arms


# report.json


def test_json_has_exactly_the_stable_keys_in_their_order(study):
    data = json.loads(study[0].model_dump_json())
    assert list(data) == ["study", "seed", "tasks", "test_looks", "arms", "cheap", "recommendation"]
    assert list(data["tasks"]) == ["train", "test"]
    for one in data["arms"]:
        keys = ["name", "learner", "agent_version", "n", "score", "ci", "delta", "delta_ci", "p", "p_holm", "learn", "use"]
        assert list(one) == keys
        assert list(one["learn"]) == ["calls", "tokens_in", "tokens_out", "usd", "seconds"]
        assert list(one["use"]) == ["tokens_in", "tokens_out", "usd", "seconds"]
    for one in data["cheap"]:
        assert list(one) == ["name", "score", "ci"]
    assert [one["name"] for one in data["cheap"]] == ["constant", "nearest"]


def test_json_holds_hand_computed_numbers(study):
    data = json.loads(study[0].model_dump_json())
    base, fixed, meaning = data["arms"]
    assert (base["n"], base["score"]) == (50, 0.1)
    assert base["ci"] == pytest.approx([0.0434758, 0.2136023], abs=1e-6)  # Wilson, 5 of 50
    assert [base[key] for key in ("learner", "delta", "delta_ci", "p", "p_holm")] == [None] * 5
    assert (fixed["delta"], fixed["p"], fixed["p_holm"]) == (pytest.approx(0.04), 0.5, 0.5)  # 2 discordant, both gained: 2 / 4
    assert meaning["delta"] == pytest.approx(0.7)
    assert meaning["p"] == pytest.approx(2 / 2**35)
    assert meaning["p_holm"] == pytest.approx(4 / 2**35)
    assert meaning["use"] == {"tokens_in": 210, "tokens_out": 10, "usd": 0, "seconds": 0.5}
    assert meaning["learn"] == {"calls": 3, "tokens_in": 900, "tokens_out": 30, "usd": 0, "seconds": 2}


def test_unknown_is_null_never_zero():
    report = report_of(baseline([1, None], usd=None), arm("a", [None, None], usd=None, learn=Cost(usd=None)))
    base, other = json.loads(report.model_dump_json())["arms"]
    assert (base["n"], base["score"], base["use"]["usd"]) == (1, 1.0, None)
    assert [other[key] for key in ("n", "score", "ci", "delta", "delta_ci", "p", "p_holm")] == [0, None, None, None, None, None, None]
    assert other["learn"]["usd"] is None


def test_one_unknown_price_makes_the_mean_unknown():
    rows = (results.TestRow(task_id="a", score=1, usd=0.5), results.TestRow(task_id="b", score=1, usd=None))
    report = report_of(ArmResult(name="baseline", agent_version="v", rows=rows))
    assert report.arms[0].use.usd is None


def test_a_score_that_is_no_number_is_no_grade():
    report = report_of(baseline([float("nan"), 1.0, float("inf")]))
    assert (report.arms[0].n, report.arms[0].score) == (1, 1.0)
    assert "NaN" not in report.model_dump_json()


def test_several_seeds_count_a_task_once():
    rows = [results.TestRow(task_id=f"t{i}", seed=seed, score=float((i + seed) % 2)) for seed in (0, 1) for i in range(6)]
    report = report_of(ArmResult(name="baseline", agent_version="v", rows=tuple(rows)))
    assert (report.arms[0].n, report.arms[0].score) == (6, 0.5)
    assert "2 seeds" in words(report)


def test_files_round_trip_and_are_the_same_each_time(study, tmp_path):
    report, arms = study
    write_report(tmp_path / "a", report, arms, CHEAP, [])
    write_report(tmp_path / "b", report, arms, CHEAP, [])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["report.html", "report.json", "report.md"]
    for name in ("report.html", "report.json", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert read_report(tmp_path / "a") == report
    assert read_report(tmp_path / "a" / "report.json") == report
    assert (tmp_path / "a" / "report.json").read_text().startswith('{\n  "study": "helpdesk"')


def test_a_report_that_cannot_be_written_says_where(study, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        write_report(tmp_path / "taken", *study, CHEAP, [])


@pytest.mark.parametrize("content", [None, b"{", b'{"study": 1}', b"\xff\xfe"])
def test_a_missing_or_broken_report_says_what_to_do(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(InputError, match=r"report\.json"):
        read_report(tmp_path)


def test_arms_must_be_distinct_and_cheap_scores_must_line_up():
    with pytest.raises(ValueError, match="different names"):
        report_of(baseline([1]), baseline([1]))
    with pytest.raises(ValueError, match="different names"):
        make_report(study="s", seed=0, n_train=0, n_test=0, test_looks=1, arms=[])
    with pytest.raises(ValueError, match="nearest has 1 scores for 2"):
        report_of(baseline([1, 0]), cheap=[CheapResult(name="nearest", scores=(1.0,))])


# The words


def test_the_finding_names_the_arm_the_size_and_the_certainty(study):
    headline = findings(study[0]).headline
    assert headline.startswith("Worth it: `meaning, k=6` scores 0.800 and the baseline 0.100, a gain of +0.700 (95% interval +0.")
    assert headline.endswith("p < 0.001, corrected for 2 comparisons).")


def test_the_details_say_costs_cheap_answers_and_what_was_not_shown(study):
    text = words(study[0])
    assert "`meaning, k=6` beats the nearest case's answer, which needs no language model and scores 0.400, by +0.400" in text
    assert "Learning `meaning, k=6` took 3 model calls, 930 tokens, 2.00 s and no money." in text
    assert "With `meaning, k=6` a task takes 210 tokens in, 10 out, 0.50 s, no money; with the baseline 100 tokens in" in text
    assert "Cannot be told apart from the baseline with n=50: `fixed, k=6` (+0.040" in text
    assert re.search(r"misses gains below about 0\.[12]\d more often than one time in 5", text)
    assert "the exact McNemar test, Holm-corrected for 2 comparisons" in text
    assert "Caution" not in text


def test_a_lookup_that_does_as_well_is_admitted():
    report = report_of(baseline(share(5)), arm("meaning", share(40)), cheap=[CheapResult(name="nearest", scores=tuple(share(41)))])
    assert findings(report).headline.startswith(
        "Better than the baseline, but not shown to be better than the nearest case's answer, which"
    )
    assert "Worth it" not in words(report)
    assert (
        "cannot be told apart from the nearest case's answer, which needs no language model and scores 0.820: it differs by -0.020"
        in words(report)
    )


def test_a_lookup_that_does_better_is_recommended_instead():
    report = report_of(baseline(share(5)), arm("meaning", share(20)), cheap=[CheapResult(name="nearest", scores=tuple(share(40)))])
    assert "`meaning` is worse than the nearest case's answer" in words(report)
    assert "use that instead" in words(report)


def test_of_two_arms_within_noise_the_cheaper_is_preferred():
    report = report_of(baseline(share(5)), arm("rich", share(41), tokens=400), arm("lean", share(40), tokens=200))
    assert findings(report).headline.startswith("Worth it: `lean`")
    assert "`rich` (0.820) scores higher, but within noise: the difference is -0.020" in words(report)
    assert "uses 49% fewer tokens a task" in words(report)  # 210 of 410


def test_a_cheaper_arm_that_is_not_shown_to_beat_a_lookup_is_not_preferred():
    cheap = [CheapResult(name="nearest", scores=tuple(share(29)))]
    report = report_of(baseline(share(5)), arm("rich", share(38), tokens=400), arm("lean", share(33), tokens=200), cheap=cheap)
    assert findings(report).headline.startswith("Worth it: `rich`")
    assert "`lean` (0.660): +0.100" in words(report)
    assert "That one is cheaper, but not shown to beat the nearest case's answer." in words(report)


def test_of_two_arms_within_noise_that_cost_alike_the_better_is_kept():
    report = report_of(baseline(share(5)), arm("one", share(41), tokens=200), arm("two", share(40), tokens=195))
    assert findings(report).headline.startswith("Worth it: `one`")
    assert "cannot be told apart from the next best arm, `two` (0.800)" in words(report)


def test_an_arm_clearly_better_is_not_given_up_for_a_cheaper_one():
    report = report_of(baseline(share(5)), arm("rich", share(45), tokens=400), arm("lean", share(20), tokens=50))
    assert findings(report).headline.startswith("Worth it: `rich`")
    assert "also better than the next best arm, `lean` (0.400)" in words(report)


def test_money_decides_what_is_cheaper_only_where_it_is_known():
    dear, cheap = UseCost(tokens_in=10, tokens_out=0, usd=2.0), UseCost(tokens_in=100, tokens_out=0, usd=1.0)
    assert saved(cheap, dear) == (0.5, "less money")
    assert saved(UseCost(tokens_in=5, tokens_out=0, usd=0.0), UseCost(tokens_in=10, tokens_out=0, usd=0.0)) == (0.5, "fewer tokens")
    assert saved(UseCost(tokens_in=5, tokens_out=0), dear) == (0.5, "fewer tokens")
    assert saved(UseCost(), UseCost())[0] == 0.0


def test_holm_takes_back_what_one_test_alone_would_claim():
    before, after = [0.0] * 6 + [1.0] * 20, [1.0] * 26  # p = 2 / 2**6 = 0.03125
    alone = report_of(baseline(before), arm("a", after))
    assert findings(alone).headline.startswith("Worth it: `a`")
    assert "a single comparison" in words(alone)
    crowd = report_of(baseline(before), arm("a", after), arm("b", before), arm("c", before))
    assert crowd.arms[1].p_holm == pytest.approx(3 / 32)
    assert findings(crowd).headline.startswith("No arm is shown to be better than the baseline")


def test_a_worse_arm_is_called_worse():
    report = report_of(baseline(share(40)), arm("broken", share(5)))
    assert findings(report).headline.startswith("No arm is shown to be better")
    assert "Worse than the baseline: `broken` (-0.700" in words(report)


def test_too_few_tasks_cannot_show_anything():
    report = report_of(baseline([0, 0, 0]), arm("a", [1, 1, 1]))
    assert report.arms[1].p == pytest.approx(0.25)
    assert "With 3 graded tasks no gain, however large, could be shown." in words(report)


def test_a_baseline_near_the_top_leaves_no_room():
    report = report_of(baseline(share(49)), arm("a", share(50)))
    assert "Next to a baseline of 0.980, 50 graded tasks cannot reliably show any gain" in words(report)


def test_scores_between_use_the_permutation_test():
    report = report_of(baseline([0.1, 0.2, 0.3, 0.4] * 5), arm("a", [0.2, 0.2, 0.25, 0.45] * 5))
    assert report.arms[1].delta == pytest.approx(0.025)
    assert "a sign-flip permutation test" in words(report)


def test_ungraded_and_cut_off_episodes_are_counted():
    ended = [StopReason.ANSWERED] * 8 + [StopReason.STEPS, StopReason.TRUNCATED]
    rows = tuple(results.TestRow(task_id=f"t{i}", score=None if i == 0 else 0.0, stop=stop) for i, stop in enumerate(ended))
    report = report_of(ArmResult(name="baseline", agent_version="v", rows=rows), arm("a", [1.0] * 10))
    assert "Episodes that were not graded: 1 of 10 in `baseline`." in words(report)
    assert "cut off by a limit before the agent came to an end: 2 of 10 in `baseline`." in words(report)
    assert report.arms[1].delta == 1.0


def test_looking_again_is_cautioned():
    report = report_of(baseline(share(5)), looks=3)
    assert "Caution: this test split has been looked at 3 times." in words(report)
    assert any("looked at 3 times" in line for line in findings(report).method)


def test_unknown_costs_are_said_to_be_unknown():
    text = words(report_of(baseline(share(5), usd=None), arm("a", share(40), usd=None, learn=Cost(usd=None))))
    assert "an unknown amount of money" in text
    assert "Cost in money is unknown for `baseline` and `a`" in text


def test_known_costs_are_said():
    text = words(report_of(baseline(share(5), usd=0.001), arm("a", share(40), usd=0.00325, learn=Cost(calls=1200, usd=1.5))))
    assert "Learning `a` took 1,200 model calls, 0 tokens, 0 s and US$ 1.50." in text
    assert "US$ 0.00325; with the baseline" in text


def test_one_arm_is_only_described():
    report = report_of(baseline(share(5)), cheap=CHEAP)
    assert findings(report).headline == (
        "`baseline` scores 0.100 (95% interval 0.043 to 0.214) on 50 graded tasks; no other arm was compared with it."
    )
    assert "For scale, without a language model: the constant answer scores 0.040 and the nearest case's answer scores 0.400." in words(
        report
    )
    assert "No arm scores as high as the nearest case's answer." in words(report)


def test_nothing_graded_says_nothing():
    report = report_of(baseline([None, None]), arm("a", [None, None]), cheap=[CheapResult(name="constant", scores=(None, None))])
    assert findings(report).headline == "Nothing was graded, so nothing can be said about any arm."
    assert report.cheap[0].score is None


def test_an_ungraded_baseline_stops_the_comparison():
    report = report_of(baseline([None, None]), arm("a", [1, 1]))
    assert findings(report).headline.startswith("The baseline `baseline` has no graded task")


def test_an_arm_without_common_tasks_is_named():
    report = report_of(baseline([1, None]), arm("a", [None, 1]))
    assert "Not compared, because no task was graded both there and in the baseline: `a`." in words(report)


def test_names_cannot_break_the_lines_of_the_finding():
    report = report_of(baseline(share(5)), arm("two\nlines `x`", share(40)))
    assert "`two lines 'x'` scores 0.800" in findings(report).headline


# The tables


def test_tables_write_what_does_not_apply_and_what_is_unknown():
    report = report_of(baseline([1.0], usd=None), arm("a", [1.0]), cheap=[CheapResult(name="constant", scores=(0.0,))])
    rows = score_table(report).rows
    assert rows[0][4:] == ("-", "-", "-")
    assert rows[2][0] == "constant answer (no model)"
    assert cost_table(report).rows[0][-1] == "unknown"
    assert cost_table(report).rows[1][-1] == "0"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (signed(-0.0001), "0.000"),
        (signed(-0.02), "-0.020"),
        (p_value(0.0004), "<0.001"),
        (p_value(0.05), "0.050"),
        (count(None), "unknown"),
        (count(2.5), "2.5"),
        (count(99_999), "99,999"),
        (count(123_456), "123k"),
        (count(12_345_678), "12.35M"),
        (duration(0.004), "0.00"),
        (duration(3600), "3,600"),
        (money(0), "0"),
        (money(0.000032), "3.2e-05"),
        (money(0.0123), "0.0123"),
        (money(1234.5), "1,234.50"),
    ],
)
def test_numbers_are_written_so(written, expected):
    assert written == expected


# The terminal


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_figure_within_its_width_and_without_colour(study, width, capsys):
    console = Console(width=width, color_system=None, force_terminal=False)
    print_report(study[0], console)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for row in (*score_table(study[0]).rows, *cost_table(study[0]).rows):
        for cell in row[1:]:
            assert cell in text
    assert "…" not in text
    flat = " ".join(text.split())
    assert " ".join(findings(study[0]).headline.split()) in flat
    for detail in findings(study[0]).details:
        assert detail in flat


def test_a_narrow_terminal_wraps_and_cuts_nothing(study, capsys):
    print_report(study[0], Console(width=46, color_system=None))
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 46
    assert "…" not in text


def test_a_name_is_not_read_as_markup(capsys):
    print_report(report_of(baseline([1.0]), arm("[red]x[/red]", [0.0])), Console(width=100, color_system=None))
    assert capsys.readouterr().out.count("[red]x[/red]") == 3  # two tables and the finding


# Cases


def case(name: str, before, after, text="question", words="why") -> Case:
    answers = {"baseline": CaseAnswer("old answer", before, words), "a": CaseAnswer("new answer", after, words)}
    return Case(task_id=name, input_text=text, expected="right answer", answers=answers)


def test_cases_are_sorted_by_what_learning_did():
    cases = [case("u", None, 1), case("f", 0, 0), case("b", 1, 0), case("ok", 1, 1), case("x", 0.2, 0.4)]
    found = readings(cases, "baseline", "a")
    assert [(reading.kind, reading.case.task_id) for reading in found] == [
        (Kind.FIXED, "x"),
        (Kind.BROKEN, "b"),
        (Kind.FAILING, "f"),
        (Kind.UNGRADED, "u"),
    ]


def test_fixed_and_broken_are_words_for_scores_of_0_and_1():
    whole = readings([case("x", 0, 1), case("y", None, 1)], "baseline", "a")
    assert labels(whole)[Kind.FIXED] == "Fixed"
    assert tally(whole) == "1 fixed, 1 not graded"
    between = readings([case("x", 0, 1), case("y", 0.5, 0.2), case("z", 0.5, 0.5)], "baseline", "a")
    assert tally(between) == "1 better, 1 worse, 1 no better"


def test_an_arm_that_did_not_learn_has_no_cost_of_learning():
    assert "Learning" not in words(report_of(baseline(share(5)), arm("other model", share(40), learner=None)))


def test_with_one_arm_its_failures_are_read():
    found = readings([case("bad", 0, 1), case("good", 1, 0)], "baseline", None)
    assert [(reading.kind, reading.case.task_id, reading.after) for reading in found] == [(Kind.FAILING, "bad", None)]


def test_a_case_that_an_arm_lacks_is_left_out():
    only = Case(task_id="t", input_text="q", answers={"baseline": ("x", 0.0, "")})
    assert readings([only], "baseline", "a") == []


def test_the_arm_to_read_is_the_recommended_else_the_best():
    report = report_of(baseline([1.0]), arm("a", [0.0]), arm("b", [1.0]), arm("c", [None]))
    assert arm_to_read(report, "a") == "a"
    assert arm_to_read(report, None) == "b"
    assert arm_to_read(report_of(baseline([1.0])), None) is None


# Markdown


def test_markdown_holds_the_finding_the_tables_and_the_method(study):
    report, _ = study
    text = render_markdown(report, CHEAP, [case("t", 0, 1)], "meaning, k=6")
    words = findings(report)
    for line in (words.headline, *words.details, *words.method):
        assert line in text
    assert "| **meaning, k=6** | **50** | **0.800** |" in text
    assert "| nearest case's answer (no model) | - | 0.400 |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {8, 10}


def test_markdown_keeps_what_comes_from_outside_inert():
    text = render_markdown(
        report_of(baseline([0.0]), arm("a|b <b>*x*</b>", [1.0])),
        [CheapResult(name="constant", note="<img src=x>\n# head")],
        [
            Case(
                task_id="t",
                input_text="```\n# not a heading\n````",
                answers={"baseline": ("x", 0.0, ""), "a|b <b>*x*</b>": (None, 1.0, "<i>")},
            )
        ],
    )
    assert r"a\|b \<b\>\*x\*\</b\>" in text
    assert "<img" not in text.replace(r"\<img", "")
    assert "`````text\n```\n# not a heading\n````\n`````" in text
    assert "(no answer)" in text


# HTML


class Page(HTMLParser):
    """Elements, their attributes, and the text that is seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[str] = []
        self._skip = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if not self._skip:
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


def attacked() -> tuple[Report, list[ArmResult], list[CheapResult], list[Case]]:
    arms = [baseline(share(5)), arm(ATTACK, share(40), experiences_used=9)]
    cheap = [CheapResult(name="constant", note=ATTACK, scores=tuple(share(1)))]
    answers = {"baseline": CaseAnswer(ATTACK, 0.0, ATTACK), ATTACK: CaseAnswer(ATTACK, 1.0, ATTACK)}
    cases = [Case(task_id=ATTACK, input_text=ATTACK, expected=ATTACK, answers=answers)]
    report = make_report(study=ATTACK, seed=0, n_train=9, n_test=50, test_looks=1, arms=arms, cheap=cheap)
    return report, arms, cheap, cases


def test_html_shows_an_attack_as_text_and_runs_none_of_it():
    text = render_html(*attacked(), ATTACK)
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 3  # data, library, page
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "link", "object", "embed", "base")]
    assert page.text.count("alert('owned')") >= 8
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    data = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in data
    assert {plot["id"] for plot in json.loads(data)} >= {"plot-scores", "plot-use-tokens"}


def test_html_loads_nothing(study):
    page = Page(render_html(*study, CHEAP, [case("t", 0, 1)]))
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert name not in attrs, f"<{tag} {name}={attrs[name]}>"
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search(r"script-src ([^;]*)", policy)[1]
    assert len(re.findall(r"'sha256-[^']+'", policy)) == 2


def squeezed(text: str) -> str:
    """Without spaces and quotes, and with one kind of dash."""
    return re.sub(r"[\s`]", "", text).replace("\u2212", "-").replace("\u2013", "-")


def test_html_says_the_same_as_the_other_renderings(study):
    report, arms = study
    seen = squeezed(Page(render_html(report, arms, CHEAP, [case("t", 0, 1)], "meaning, k=6")).text)
    words = findings(report)
    for line in (words.headline, *words.details, *words.method):
        assert squeezed(line) in seen
    for table in (score_table(report), cost_table(report)):
        assert squeezed("".join(table.columns)) in seen
        for place, row in enumerate(table.rows):
            marks = "ABC"[place] if place < 3 else "\u25c7"
            assert squeezed(marks + "".join(row)) in seen


def test_html_reads_cases_side_by_side(study):
    report, arms = study
    answers = {"baseline": ("before", 0.0, "wrong tool"), "meaning, k=6": (None, None, "")}
    cases = [Case(task_id="t1", input_text="ask", expected="want", answers=answers)]
    text = render_html(report, arms, CHEAP, cases, "meaning, k=6")
    article = text[text.index("<article") : text.index("</article>")]
    for part in ('class="case ungraded"', "ask", "want", "before", "wrong tool", "score 0", "(no answer)", "not graded", "task t1"):
        assert part in article
    assert 'for="show-ungraded">Not graded 1</label>' in text


def test_html_shortens_a_megabyte_and_limits_the_cases(study):
    report, arms = study
    answers = {"baseline": ("x" * 1_000_000, 0.0, ""), "meaning, k=6": ("y", 1.0, "")}
    cases = [Case(task_id=f"t{i}", input_text="q", answers=answers) for i in range(150)]
    text = render_html(report, arms, CHEAP, cases, "meaning, k=6")
    assert len(text) < 6_500_000
    assert "[997,000 more characters]" in text
    assert text.count("<article") == 100
    assert "Fixed 150" in text


@pytest.mark.parametrize(
    "arms",
    [
        [baseline([None, None], usd=None)],
        [baseline([None]), arm("a", [None])],
        [baseline([1.0])],
        [baseline([0.7])],
        [baseline([0.0], tokens=0), arm("a", [1.0], tokens=0)],
        [baseline([3.0, 7.5]), arm("a", [-2.0, 9.0], usd=None)],
        [ArmResult(name="baseline", agent_version="v")],
        [baseline([1.0]), *(arm(f"arm {i}", [1.0]) for i in range(30))],
    ],
    ids=["one-ungraded", "all-ungraded", "n=1", "n=1-between", "zero-cost", "any-scale", "no-rows", "many-arms"],
)
def test_every_rendering_survives(arms, tmp_path, capsys):
    report = report_of(*arms)
    write_report(tmp_path, report, arms, (), [case("t", None, None)])
    assert read_report(tmp_path) == report
    print_report(report, Console(width=80))
    assert findings(report).headline.split("`")[0].strip(" :") in capsys.readouterr().out.replace("\n", " ")
    text = (tmp_path / "report.html").read_text()
    assert "nan" not in Page(text).text.lower()
    assert ("plotly.js" in text) == any(one.score is not None for one in report.arms)


# Plots


def figure(plots, name):
    return next(plot for plot in (plots.scores, *plots.costs, plots.experience) if plot and plot.id == name).figure


def test_the_score_plot_shows_scores_and_their_intervals(study):
    report, arms = study
    data = figure(make_plots(report, arms, "meaning, k=6"), "plot-scores")["data"]
    assert data[0]["x"] == [0.1, 0.14, 0.8]
    low, high = report.arms[2].ci
    assert data[0]["error_x"]["array"][2] == pytest.approx(high - 0.8)
    assert data[0]["error_x"]["arrayminus"][2] == pytest.approx(0.8 - low)
    assert data[0]["marker"]["color"] == ["var(--mark-base)", "var(--mark-arm)", "var(--mark-best)"]
    assert data[1]["x"] == [0.04, 0.4]


def test_costs_are_plotted_in_money_only_where_it_is_known_and_not_zero(study):
    names = [plot.id for plot in make_plots(*study, None).costs]
    assert names == ["plot-use-tokens", "plot-use-seconds", "plot-learn-tokens", "plot-learn-seconds"]
    priced = [baseline(share(5), usd=0.01), arm("a", share(40), usd=0.02, learn=Cost(calls=1, usd=3.0, seconds=4.0))]
    names = [plot.id for plot in make_plots(report_of(*priced), priced, None).costs]
    assert names == ["plot-use-usd", "plot-use-seconds", "plot-learn-usd", "plot-learn-seconds"]
    partly = [baseline(share(5), usd=0.01), arm("a", share(40), usd=None)]
    plots = make_plots(report_of(*partly), partly, None)
    assert [plot.id for plot in plots.costs] == ["plot-use-tokens", "plot-use-seconds"]
    assert "no model call" in plots.notes[0]
    assert figure(make_plots(*study, None), "plot-use-tokens")["data"][0]["x"] == [110, 230, 220]


def test_experience_is_plotted_as_curves_where_they_were_measured(study):
    report, arms = study
    dots = figure(make_plots(report, arms, None), "plot-experience")["data"]
    assert [(line["x"], line["y"]) for line in dots] == [([0], [0.1]), ([6], [0.14]), ([300], [0.8])]
    curved = [*arms[:2], arms[2].model_copy(update={"curve": (CurvePoint(n=30, score=0.5), CurvePoint(n=100, score=None))})]
    lines = figure(make_plots(report, curved, None), "plot-experience")["data"]
    assert [(line["x"], line["y"]) for line in lines] == [([0], [0.1]), ([300], [0.14]), ([30, 100, 300], [0.5, None, 0.8])]
    assert make_plots(report_of(arms[0]), [arms[0]], None).experience is None


def test_colours_are_the_pages_own(study):
    page = (render_html(*study, CHEAP)).split("<style>")[1].split("</style>")[0]
    used = set(re.findall(r"var\((--[a-z-]+)\)", json.dumps([plot.figure for plot in make_plots(*study, "meaning, k=6").costs])))
    assert used
    for name in used:
        assert page.count(f"{name}: #") == 2, f"{name} needs a light and a dark value"
