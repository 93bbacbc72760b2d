"""`tutelage judge`: what the commands print, keep and refuse. The judges are scripts whose verdicts stand in the answers."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tutelage as tt
from tutelage.cli import app
from tutelage.collector import Job
from tutelage.commands.judge_cli import judge_app
from tutelage.commands.judge_view import bins_of
from tutelage.errors import BudgetExceeded, InputError, TutelageError
from tutelage.graders import judge_prompts
from tutelage.graders.audit import drawn_for_audit
from tutelage.graders.calibrated_judge import load_calibrated
from tutelage.graders.certificate import read_certificates
from tutelage.graders.guarantee import calibrate as calibrate_items
from tutelage.graders.labels import Labelled, read_items, write_labelled
from tutelage.graders.load import make_grader
from tutelage.graders.monitored import Trail, log_of
from tutelage.inbox import Inbox
from tutelage.model import _load
from tutelage.records import Message

SCRIPT = '''
import json, re

def reply(messages, tools, sampling):
    """Its verdict and confidence stand in the last answer that it is shown."""
    said, sure = re.findall(r"says (\\d) sure (\\d+)", messages[-1].text)[-1]
    return json.dumps({"why": "it is written there", "score": int(said), "confidence": int(sure)})

def unsure(messages, tools, sampling):
    return json.dumps({"why": "", "score": 1, "confidence": 10})

def compares(messages, tools, sampling):
    """Prefers the answer that is called finer."""
    shown = re.findall(r"(finer|poorer)", messages[-1].text)[-2:]
    return json.dumps({"why": "", "verdict": 1 + shown.index("finer"), "confidence": 90})
'''
JUDGE = "model: scripted:judge.py\ncriteria: The answer is right.\nscale: 1\ndomain: doors\n"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A terminal of 80 columns, in a folder with a judge and sixty labels."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    _load.cache_clear()
    Path("judge.py").write_text(SCRIPT)
    Path("judge.yaml").write_text(JUDGE)
    write_labelled("labels.jsonl", sixty())
    return tmp_path


def sixty() -> list[Labelled]:
    """40 items at .9 on which the judge is right; 20 at .5 of which it has every second wrong."""
    sure = [(n, 90, "right") for n in range(40)] + [(n, 50, "right" if n % 2 else "wrong") for n in range(40, 60)]
    return [
        Labelled(id=f"i{n}", kind="right_wrong", task="What?", answers=(f"answer {n} says 1 sure {c}",), label=label)
        for n, c, label in sure
    ]


def call(*words: object, fails: str | None = None, code: int = 0) -> str:
    """What a command prints, at most 80 characters a line; with `fails` it must raise an error that says so."""
    result = CliRunner().invoke(judge_app, [str(word) for word in words])
    if fails is not None:
        assert isinstance(result.exception, TutelageError), (result.output, result.exception)
        assert fails in str(result.exception)
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    assert max(map(len, result.stdout.splitlines()), default=0) <= 80
    return result.stdout


def flat(text: str) -> str:
    return " ".join(text.split())


# calibrate


def test_calibrate_prints_the_certificate_and_keeps_it():
    said = flat(call("calibrate", "judge.yaml", "labels.jsonl", "--out", "judge.json"))
    assert "60 labelled items; asked is scripted:judge.py (1 question an item)" in said
    assert "Where this judge decides, it says what people say at least 0.9 of the time, over items of doors" in said
    assert "with probability 0.9 over the labels" in said
    assert "not promised Nothing about items of another kind" in said
    assert "alpha, delta 0.1, 0.1" in said
    assert "lambda 0.9: from this confidence on it decides" in said
    assert "40 of 60 items (coverage 66.7%); 0 disagree, at most 5.6%" in said
    assert "an item takes 1 calls, 0 US dollars" in said
    assert "rank correlation of length and score" in said
    assert "from 0.9 40 100% #################### decides 0.5 to 0.9 20 50% ########## abstains" in said
    assert "grader: {calibrated: {file: judge.json}}" in said
    (certificate,) = read_certificates("judge.json", "calibrated")
    assert (certificate.calibration.threshold, certificate.domain, certificate.model) == (0.9, "doors", "scripted:judge.py")
    again = call("report", "judge.json")
    assert "The promise stands" in again
    assert "none yet; `tutelage judge audit` draws a random sample" in flat(again)


def test_a_judge_that_passes_nothing_says_so():
    write_labelled("coin.jsonl", [one.model_copy(update={"label": "wrong" if n % 2 else "right"}) for n, one in enumerate(sixty())])
    said = flat(call("calibrate", "judge.yaml", "coin.jsonl"))
    assert "It abstains always, so nothing is promised" in said
    assert "promised Nothing: it never decides." in said
    assert "lambda none" in said


def test_labels_of_one_class_are_warned_of_where_the_promise_is_stated():
    write_labelled("alike.jsonl", [one.model_copy(update={"label": "right"}) for one in sixty()])
    said = flat(call("calibrate", "judge.yaml", "alike.jsonl"))
    assert "no audit has refuted it. Mind the warnings." in said
    assert "warning labels of one class: every item is `right`" in said


def test_people_and_their_agreement_are_shown_and_each_may_have_a_column():
    with Path("votes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["qid", "question", "reply", "Ann", "Bob", "truth"])
        for n, one in enumerate(sixty()):
            rows.writerow([one.id, "What?", one.answers[0], one.label, "wrong" if n == 3 else one.label, f"truth {n}"])
    Path("compare.yaml").write_text(JUDGE + "reference: true\n")
    columns = "id=qid,task=question,answer=reply,label=Ann|Bob,reference=truth"
    said = flat(call("calibrate", "compare.yaml", "votes.csv", "--columns", columns))
    assert "59 items of doors; 1 left out, on which they did not settle" in said
    assert "(2 annotators, 60 items with several labels)" in said
    call("calibrate", "compare.yaml", "votes.csv", "--columns", columns.replace("truth", "thruth"), fails="Did you mean `truth`")
    call("calibrate", "compare.yaml", "votes.csv", "--columns", "id=qid,answr=reply", fails="Did you mean `answer`")
    call("calibrate", "compare.yaml", "votes.csv", "--columns", "id", fails="this part cannot be read: `id`")


def test_examples_of_simulated_people_are_not_calibrated_on():
    Path("people.yaml").write_text(JUDGE + "annotators: {n: 2, k: 4, seed: 1}\n")
    said = flat(call("calibrate", "people.yaml", "labels.jsonl", "--min-items", "22"))
    (certificate,) = read_certificates("judge.json", "calibrated")
    shown = {example["case"]["answers"][0] for one in certificate.judge["options"]["annotators"] for example in one["examples"]}
    assert 4 <= len(shown) <= 8
    assert certificate.calibration.n == 60 - len(shown)
    assert f"{len(shown)} others are examples of simulated annotators" in said
    assert "warning thresholds with as few as 22 items were tested" in said


def test_a_cascade_is_calibrated_level_by_level():
    levels = 'levels:\n  - {model: "scripted:judge.py?function=unsure"}\n  - {}\n'
    Path("cascade.yaml").write_text(JUDGE + levels)
    said = flat(call("calibrate", "cascade.yaml", "labels.jsonl", "--out", "c.json"))
    assert "Where this cascade decides, its judges say what people say" in said
    assert "Level 1 model scripted:judge.py?function=unsure" in said
    assert "Level 2 model scripted:judge.py" in said
    assert "grader: {cascade: {file: c.json}}" in said
    first, second = read_certificates("c.json", "cascade")
    assert (first.calibration.threshold, second.calibration.threshold) == (None, 0.9)
    assert second.calibration.delta == 0.05
    assert "together 40 of 60 items decided (coverage 66.7%), 20 left to whoever comes then; an item takes 1 calls, 0 US dollars" in said
    assert "Level 2" in call("report", "c.json", "--html", "c.html")


def pairs(n: int = 60) -> list[Labelled]:
    texts = [("the finer answer {n}", "the poorer {n}") if n % 2 else ("the poorer {n}", "the finer one, {n}") for n in range(n)]
    return [
        Labelled(id=f"p{k}", kind="pairwise", task="?", answers=tuple(t.format(n=k) for t in pair), label="a" if k % 2 else "b")
        for k, pair in enumerate(texts)
    ]


def test_pairs_show_their_biases_and_are_audited_by_label_files():
    Path("pairs.yaml").write_text("model: scripted:judge.py?function=compares\nkind: pairs\ncriteria: It is better.\n")
    write_labelled("pairs.jsonl", pairs())
    said = flat(call("calibrate", "pairs.yaml", "pairs.jsonl", "--out", "p.json"))
    assert "the verdict changes with the order of the answers: 0.0% [0.0%, 6.0%] (n = 60) of the pairs" in said
    assert "the longer answer is preferred" in said
    new = [one.model_copy(update={"id": f"new {one.id}", "task": "new"}) for one in pairs()]
    write_labelled("new.jsonl", new)
    call("audit", "p.json", "new.jsonl", "--inbox", "x.sqlite", fails="leave --inbox out")
    said = flat(call("audit", "p.json", "new.jsonl", "--rate", "0.5"))
    drawn = read_items("p.audit-items.jsonl")
    assert f"drawn: {len(drawn)} new verdicts" in said
    assert 10 < len(drawn) < 50
    assert "tutelage label p.audit-items.jsonl --out p.audit-labels.jsonl" in said
    truth = {one.id: one.label for one in new}
    write_labelled("p.audit-labels.jsonl", [Labelled(**one.model_dump(), label=truth[one.id], annotator="Ann") for one in drawn])
    said = flat(call("audit", "p.json", "new.jsonl", "--rate", "0.5"))
    assert f"taken in: {len(drawn)} answers drawn: 0 new verdicts" in said
    assert f"0 of {len(drawn)} verdicts disagree with people (0.0%; at most 10.0% is promised); 0 wait" in said


def test_an_interrupted_calibration_goes_on():
    Path("count.py").write_text(SCRIPT.replace("said, sure", "open('calls', 'a').write('.'); said, sure", 1))
    Path("judge.yaml").write_text(JUDGE.replace("judge.py", "count.py"))
    result = CliRunner().invoke(judge_app, ["calibrate", "judge.yaml", "labels.jsonl", "--calls", "25"])
    assert isinstance(result.exception, BudgetExceeded)
    assert not Path("judge.json").exists()
    call("calibrate", "judge.yaml", "labels.jsonl")
    assert Path("calls").stat().st_size == 60
    call("calibrate", "judge.yaml", "labels.jsonl", "--alpha", "0.2")
    assert Path("calls").stat().st_size == 60


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: scripted:judge.py\n", "judge.yaml: field `criteria`: say in plain words what the judge goes by"),
        (JUDGE + "modle: x\n", "judge.yaml:5: field `modle`: `modle` is not a key of a judge. Did you mean `model`?"),
        ("criteria: x\n", "judge.yaml: field `model`: this key is missing"),
        (JUDGE + "kind: pair\n", "judge.yaml:5: field `kind`"),
        (JUDGE + "annotators: {n: 0}\n", "judge.yaml:5: field `annotators.n`"),
        (JUDGE + "annotators: {n: 3, k: 90}\n", "judge.yaml"),
        (JUDGE + "confidence: votes\n", "judge.yaml:5: field `confidence`: the votes of a single judge say nothing"),
        (JUDGE + "levels:\n  - {}\n  - {scael: 2}\n", "judge.yaml:7: field `levels.1.scael`"),
        (JUDGE + "agree: {within: -1}\n", "judge.yaml:5: field `agree.within`"),
        ("model: nothing:x\ncriteria: x\n", "`nothing` is not a kind of model"),
    ],
)
def test_a_judge_file_with_mistakes_is_refused(text, reason):
    Path("judge.yaml").write_text(text)
    call("calibrate", "judge.yaml", "labels.jsonl", fails=reason)
    assert not Path("judge.json").exists()


def test_options_with_mistakes_are_refused_before_anything_is_asked():
    write_labelled("few.jsonl", sixty()[:20])
    call("calibrate", "judge.yaml", "few.jsonl", fails="even without a single disagreement 22 are needed")
    call("calibrate", "judge.yaml", "labels.jsonl", "--alpha", "1", fails="field `alpha`: must lie between 0 and 1")
    call("calibrate", "judge.yaml", "labels.jsonl", "--kind", "scor", fails="Did you mean `score`")
    call("calibrate", "judge.yaml", "labels.jsonl", "--out", "labels.jsonl", fails="this file is read; name another one")
    Path("precious.txt").write_text("mine")
    call("calibrate", "judge.yaml", "labels.jsonl", "--out", "precious.txt", fails="cannot be read as JSON")
    assert Path("precious.txt").read_text() == "mine"
    call("calibrate", "nothing.yaml", "labels.jsonl", fails="no such file")
    call("report", "nothing.json", fails="no such file")
    Path("other.json").write_text("{}")
    call("report", "other.json", fails="this is no file of a calibrated judge")


# what invalidates


def test_a_change_of_model_prompt_or_domain_invalidates(monkeypatch):
    call("calibrate", "judge.yaml", "labels.jsonl")
    call("audit", "judge.json", "labels.jsonl", "--domain", "windows", fails="the certificate is for `doors`, and not for `windows`")
    call("audit", "judge.json", "labels.jsonl", "--domain", "doors")
    with monkeypatch.context() as changed:
        changed.setattr(judge_prompts, "_DIGIT", "Say a digit.")
        said = flat(call("report", "judge.json"))
    assert "NOT VALID: the certificate is not valid for this judge: the prompts of judges changed" in said
    Path("judge.py").write_text(SCRIPT + "# another judge\n")
    _load.cache_clear()
    assert "NOT VALID: the certificate is not valid for this judge: its model is scripted:judge.py:reply@" in flat(
        call("report", "judge.json")
    )
    call("audit", "judge.json", "labels.jsonl", fails="not valid for this judge: its model is")
    with pytest.raises(InputError, match="Calibrate the judge again"):
        make_grader({"calibrated": {"file": "judge.json"}})
    Path("judge.py").unlink()
    _load.cache_clear()
    assert "NOT CHECKED, for the judge cannot be made here" in flat(call("report", "judge.json"))


# audits of a run


def run(grader: Any, n: int = 80, sure: int = 95, attempts: int = 1) -> list[tt.Experience]:
    """A run in which an agent answers `says 1 sure N`."""
    tasks = [tt.Task(messages=(Message(role="user", content=f"Question {number}?"),)) for number in range(n)]
    agent = tt.Agent(model=tt.Scripted(lambda messages, *_: f"{messages[-1].text} says 1 sure {sure}"))
    with tt.Store("runs/demo/experience.sqlite") as store:
        collector = tt.Collector(make_grader(grader), store=store, study="demo")
        return asyncio.run(collector.run(agent, [Job(task, attempt=k) for task in tasks for k in range(attempts)]))


def answer_all(said: str) -> int:
    with Inbox("runs/demo/experience.sqlite") as inbox:
        waiting = [entry for entry in inbox.entries() if entry.answer is None]
        for entry in waiting:
            inbox.answer(entry.id, said, by="Ann")
        return len(waiting)


def test_a_run_is_audited_through_its_inbox_until_the_certificate_is_withdrawn():
    call("calibrate", "judge.yaml", "labels.jsonl")
    run({"calibrated": {"file": "judge.json"}})
    (certificate,) = read_certificates("judge.json", "calibrated")
    said = flat(call("audit", "judge.json", "runs/demo", "--rate", "0.25"))
    trail = Trail("judge.json", [certificate])
    drawn = list(trail.drawn)
    assert 8 < len(drawn) < 35
    assert all(drawn_for_audit(item, 0.25, certificate.id) for item in drawn)
    assert f"drawn: {len(drawn)} new verdicts, by a hash, at a rate of 0.25" in said
    assert "people answer with: tutelage inbox watch runs/demo" in said
    with Inbox("runs/demo/experience.sqlite") as inbox:
        entry = inbox.entries()[0]
    assert "The answer is right." in entry.question.text
    assert "says 1 sure 95" in entry.question.context
    assert "score" not in entry.question.text + entry.question.context, "people are not told what the judge says"
    log = log_of("judge.json").read_bytes()
    assert "taken in: 0 answers drawn: 0 new" in flat(call("audit", "judge.json", "runs/demo", "--rate", "0.25"))
    assert log_of("judge.json").read_bytes() == log, "asking again changes nothing"

    assert answer_all("wrong") == len(drawn)
    said = flat(call("audit", "judge.json", "runs/demo", "--rate", "0.25", code=1))
    assert f"taken in: {len(drawn)} answers WITHDRAWN: its certificate was withdrawn on" in said
    assert log_of("judge.json").read_bytes().startswith(log), "the log is only added to"
    with pytest.raises(InputError, match="may not decide any more"):
        load_calibrated("judge.json")
    assert "WITHDRAWN" in call("report", "judge.json", "--html", "w.html")
    assert "WITHDRAWN" in Path("w.html").read_text()


def test_people_who_agree_leave_the_promise_standing_and_a_number_is_a_grade():
    call("calibrate", "judge.yaml", "labels.jsonl")
    run({"calibrated": {"file": "judge.json"}})
    call("audit", "judge.json", "runs/demo", "--rate", "1")
    assert answer_all("0.7") == 80
    said = flat(call("audit", "judge.json", "runs/demo", "--rate", "1"))
    assert "The promise stands" in said
    assert "0 of 80 verdicts disagree with people (0.0%; at most 10.0% is promised); 0 wait for people" in said


def test_what_the_judge_abstained_from_or_another_grader_graded_is_not_audited():
    call("calibrate", "judge.yaml", "labels.jsonl")
    found = run({"calibrated": {"file": "judge.json"}}, sure=60)
    assert all(one.grade.abstained for one in found)
    assert "drawn: 0 new verdicts" in call("audit", "judge.json", "runs/demo", "--rate", "1")
    run(lambda task, episode: 1.0)
    assert "drawn: 0 new verdicts" in call("audit", "judge.json", "runs/demo", "--rate", "1")


def test_of_a_cascade_only_what_its_judges_decide_is_audited():
    Path("cascade.yaml").write_text(JUDGE + 'levels:\n  - {model: "scripted:judge.py?function=unsure"}\n  - {}\n')
    Path("people.py").write_text("def say(task, episode):\n    return 0.0\n")
    call("calibrate", "cascade.yaml", "labels.jsonl", "--out", "c.json")
    spec = {"cascade": {"file": "c.json", "then": "people.py:say"}}
    unsure = run(spec, n=10, sure=60)
    assert {one.grade.score for one in unsure} == {0.0}
    run(spec, n=22, sure=95)  # the first ten were graded before
    said = flat(call("audit", "c.json", "runs/demo", "--rate", "1", "--labels", "said.jsonl"))
    assert "drawn: 12 new verdicts" in said
    assert "tutelage label c.audit-items.jsonl --out said.jsonl" in said


def test_the_report_says_what_was_decided_in_a_run():
    Path("cascade.yaml").write_text(JUDGE + 'levels:\n  - {}\n  - {model: "scripted:judge.py?function=unsure"}\n')
    Path("people.py").write_text("def say(task, episode):\n    return 0.0\n")
    call("calibrate", "cascade.yaml", "labels.jsonl", "--out", "c.json")
    assert "it graded nothing in runs/demo" in flat(call("report", "c.json", "--run", run_of_nobody()))
    run({"cascade": {"file": "c.json", "then": "people.py:say"}}, n=10, sure=60)
    run({"cascade": {"file": "c.json", "then": "people.py:say"}}, n=22, sure=95)  # ten were answered before, nine of them unsurely
    said = flat(call("report", "c.json", "--run", "runs/demo"))
    assert "in this run level 1: asked 22, decided 13 of 22 (59.1%), 22 calls, 0.0000 USD" in said
    assert "level 2: asked 0, decided 0 of 22 (0.0%), 0 calls, 0.0000 USD then: decided 9 of 22 (40.9%) undecided: 0 of 22 (0.0%)" in said
    call("calibrate", "judge.yaml", "labels.jsonl")
    run({"calibrated": {"file": "judge.json"}}, n=14)
    assert "decided 5 of 14 episodes (35.7%), abstained from 9" in flat(call("report", "judge.json", "--run", "runs/demo"))
    call("report", "judge.json", "--run", "runs/nothing", fails="there is no run")


def run_of_nobody() -> str:
    run(lambda task, episode: 1.0, n=1)
    return "runs/demo"


def test_references_are_shown_to_people_and_to_the_judge():
    rows = [{"id": one.id, "task": "What?", "answer": one.answers[0], "reference": f"truth {n}"} for n, one in enumerate(sixty())]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = "".join(str(one.label)[0] for one in sixty())
    shown = CliRunner().invoke(app, ["label", "answers.jsonl", "--out", "said.jsonl", "--annotator", "Ann"], input=keys)
    assert "a right answer, to compare with" in shown.output
    assert "truth 7" in shown.output
    Path("compare.yaml").write_text(JUDGE + "reference: true\n")
    call("calibrate", "compare.yaml", "labels.jsonl", fails="the item `i0` has none; say which column holds the right answer")
    assert "40 of 60 items" in call("calibrate", "compare.yaml", "said.jsonl")
    new = [Labelled(**{**one.model_dump(), "id": f"n{one.id}", "task": "New?", "reference": "truth"}) for one in sixty()]
    write_labelled("new.jsonl", new)
    call("audit", "judge.json", "new.jsonl", "--rate", "0.5")
    assert {one.reference for one in read_items("judge.audit-items.jsonl")} == {"truth"}


def test_of_several_attempts_at_a_task_one_is_audited():
    call("calibrate", "judge.yaml", "labels.jsonl")
    run({"calibrated": {"file": "judge.json"}}, n=6, attempts=3)
    assert "drawn: 6 new verdicts" in call("audit", "judge.json", "runs/demo", "--rate", "1")


def test_places_that_are_none_are_refused():
    call("calibrate", "judge.yaml", "labels.jsonl")
    call("audit", "judge.json", "runs/nothing", fails="there is no run (no runs/nothing)")
    call("audit", "judge.json", "nothing.csv", fails="no such file")
    call("audit", "judge.json", "labels.jsonl", "--rate", "2", fails="a share between 0 and 1")
    assert not log_of("judge.json").exists()


# report


def test_the_page_opens_offline_and_runs_no_foreign_script():
    Path("judge.yaml").write_text(JUDGE.replace("doors", '"<script>alert(1)</script>"'))
    call("calibrate", "judge.yaml", "labels.jsonl")
    call("report", "judge.json", "--html", "page.html")
    page = Path("page.html").read_text()
    own = page.split("<script>")[0]
    assert "&lt;script&gt;alert(1)" in own
    assert "<script>alert(1)" not in page
    assert "Content-Security-Policy" in own
    plots = json.loads(own.split('id="plots">')[1].split("</script>")[0])
    assert [plot["id"] for plot in plots] == ["agreement-1", "walk-1"]
    agreement, walk = (plot["figure"]["data"] for plot in plots)
    assert agreement[0]["y"] == [1.0, 0.5]
    assert walk[1]["y"] == pytest.approx([0, 10 / 60])


def test_bins_hold_every_verdict_once():
    confidence = [n / 1000 for n in range(1000)]
    calibration = calibrate_items(confidence, [n % 3 > 0 for n in range(1000)], 0.5, 0.1)
    bins = bins_of(calibration)
    assert sum(one.n for one in bins) == 1000
    assert sum(one.agree for one in bins) == sum(n % 3 > 0 for n in range(1000))
    assert 8 <= len(bins) <= 10
    assert [one.low for one in bins] == sorted((one.low for one in bins), reverse=True)


def test_help_teaches_in_eighty_columns():
    for command in ("calibrate", "audit", "report"):
        assert "Example: tutelage judge" in flat(call(command, "--help"))
