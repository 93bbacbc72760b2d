"""Learning without weights, from end to end: study file, command line and Python, with students that know only what their prompts say.

Students, graders and tasks are in `students/`. In the harbour a guess is right on a quarter of the tasks; the rest can only be had from
what failures teach.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage as tt
from students import harbour
from students.studies import (
    ARCHIVE,
    ARMS,
    GAIN,
    N_TRAIN,
    facts,
    knowledge,
    prompts,
    report,
    rule,
    rules,
    scores,
    taught,
    write_archive,
    write_study,
)
from tutelage import cli, model
from tutelage.experience.store import Store
from tutelage.learners.expel_operations import Reading


@pytest.fixture
def tutelage(monkeypatch, capsys):
    """Calls the command line as if in a process of its own: exit code, output, errors."""

    def call(*words: object, columns: int = 200) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, words)])
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        model._load.cache_clear()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def ann(tutelage):
    """`tutelage knowledge ...`, which must succeed."""

    def call(*words: object) -> str:
        code, out, err = tutelage("knowledge", *words)
        assert code == 0, err
        return out

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The study, run once by the program itself; its output is in `terminal.txt`."""
    folder = tmp_path_factory.mktemp("harbour")
    write_study(folder)
    command = [sys.executable, "-m", "tutelage.cli", "run", "study.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "terminal.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished study, in which the test works."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A folder without a run, in which the test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- what each learner reaches


def test_each_learner_reaches_what_it_should_and_retry_does_not(folder):
    assert scores("runs/harbour") == GAIN
    assert rules("expel") == {rule(city) for city in harbour.WORDS}
    assert rules("careless") == {*rules("expel"), harbour.HARMFUL}
    assert rules("curated") == rules("expel")
    assert len(knowledge("fixed").exemplars) == 4
    assert len(knowledge("reflexion").reflections) == N_TRAIN * 3 // 4
    assert (len(knowledge("both").reflections), rules("both")) == (18, rules("expel"))


def test_what_learners_noted_is_in_every_report(folder):
    noted = facts("runs/harbour")
    assert (noted["retry"]["solved_by_attempt"], noted["retry"]["practice_tasks"]) == ([6, 6, 6], N_TRAIN)
    assert noted["reflexion"]["solved_by_attempt"] == [6, 24, 24]
    assert (noted["reflexion"]["reflections_written"], noted["reflexion"]["attempts"]) == (18, 42)
    assert noted["both"]["reflexion.solved_by_attempt"] == [6, 24]
    assert (noted["expel"]["pairs"], noted["expel"]["success_chunks"], noted["expel"]["insights"]) == (18, 3, 4)
    assert noted["expel"]["operations"]["add"] == 4
    assert noted["stream"]["stream_scores"] == [0.25, 1, 1, 1, 1, 1]
    assert noted["curated"]["curate.entries_before"] == 5
    assert "facts" not in report("runs/harbour")["arms"][0]
    table = re.compile(r"reflexion\W+24\W+6\W+24\W+24\W")
    page = re.sub(r"<[^>]+>", " ", (folder / "runs/harbour/report.html").read_text())
    for text in ((folder / "runs/harbour/report.md").read_text(), page, (folder / "terminal.txt").read_text()):
        assert "Training tasks solved while practising" in text
        assert table.search(text)
        assert "stream scores" in text


@pytest.mark.parametrize("columns", [80, 120])
def test_a_long_fact_leaves_room_for_the_names_beside_it(columns, empty, tutelage):
    write_study(empty, {"hopeless": {"expel": {"retries": 0, "threshold": 2.0}}})
    code, out, err = tutelage("run", "study.yaml", columns=columns)
    assert code == 0, err
    noted = out.partition("What the learners noted")[2]
    assert re.search(r"hopeless +nothing learned", noted)
    assert facts("runs/harbour")["hopeless"]["nothing_learned"].endswith("(curriculum: [exemplars, expel])")
    assert {"threshold,", "retries,", "references"} <= set(noted.split())


def test_exemplars_by_meaning(empty, tutelage):
    pytest.importorskip("wordllama", reason="meaning needs an embedder")
    write_study(empty, {"meaning": {"exemplars": {"choose": "meaning", "k": 3}}})
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    assert scores("runs/harbour")["meaning"] == 1.0


def test_python_learns_the_same_as_the_study_file(folder):
    learners = {
        "reflexion": tt.Reflexion(3, carry=2, carry_by="text"),
        "both": tt.Curriculum(tt.Reflexion(2, carry=2, carry_by="text"), tt.ExpeL(1, k=0)),
        "stream": tt.Stream("text", 3, wave=4),
    }
    study = tt.Study(
        agent=tt.Agent(model=f"scripted:{folder / 'harbour.py'}", instructions="Say the word alone."),
        train=tt.read_tasks("train.jsonl"),
        test=tt.read_tasks("test.jsonl"),
        grader=tt.FunctionGrader(harbour.grade),
        learners=learners,
        out="python",
    )
    assert {arm.name: arm.score for arm in study.run().arms} == {arm: GAIN[arm] for arm in ("baseline", *learners)}
    assert {arm: knowledge(arm, "python").id for arm in learners} == {arm: knowledge(arm).id for arm in learners}


# -- broken on purpose


BREAKS = {
    "insights are not written": ("tutelage.prompt.list_insights", lambda insights: "", {"expel"}),
    "reflections are not carried": ("tutelage.memory.Memory.recall", lambda self, task: (), {"reflexion", "expel", "both"}),
    "exemplars are not shown": ("tutelage.memory.Memory.choose", lambda self, task: (), {"text", "fixed", "stream"}),
    "replies are not parsed": ("tutelage.learners.expel_extraction.read_operations", lambda text: Reading(), {"expel"}),
    "the grader is silent": ("harbour.py", "Wrong: forms of {city} want the word {task.reference}.", {"reflexion", "expel", "both"}),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_loses_its_gain_and_nothing_else_does(broken, empty, tutelage, monkeypatch):
    place, change, losing = BREAKS[broken]
    arms = ("text", "fixed", "reflexion", "expel", "both", "stream")
    write_study(empty, {arm: ARMS[arm] for arm in arms})
    if place == "harbour.py":
        source = (empty / place).read_text()
        assert change in source
        (empty / place).write_text(source.replace(change, ""))
    else:
        monkeypatch.setattr(place, change)
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    assert scores("runs/harbour") == {"baseline": 0.25} | {arm: 0.25 if arm in losing else 1.0 for arm in arms}


# -- running again, and being interrupted


def test_running_again_asks_nothing_and_says_the_same(folder, tutelage):
    before, asked = report("runs/harbour"), len(prompts(folder))
    with Store(folder / "runs/harbour/experience.sqlite") as store:
        assert store.spent("harbour")[0].calls == asked
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    assert (report("runs/harbour"), len(prompts(folder))) == (before, asked)
    shutil.rmtree("runs/harbour/agents")  # and learning anew from the store asks nothing either
    assert tutelage("run", "study.yaml")[0] == 0
    assert (scores("runs/harbour"), facts("runs/harbour")) == (GAIN, {arm["name"]: arm.get("facts", {}) for arm in before["arms"]})
    assert len(prompts(folder)) == asked


def test_where_the_program_is_called_from_decides_nothing(folder, tutelage, monkeypatch):
    before, asked = report("runs/harbour"), len(prompts(folder))
    monkeypatch.chdir(folder.parent)
    code, _, err = tutelage("run", f"{folder.name}/study.yaml", "--out", folder / "runs/harbour")
    assert code == 0, err
    assert (report(folder / "runs/harbour"), len(prompts(folder))) == (before, asked)


def test_an_edited_script_of_the_extracting_model_is_learned_from_anew(empty, tutelage):
    write_study(empty, {"expel": {"expel": {"retries": 2, "k": 0, "extract_with": "scripted:other.py"}}})
    (empty / "other.py").write_text((empty / "harbour.py").read_text())
    assert tutelage("run", "study.yaml")[0] == 0
    assert rules("expel") == {rule(city) for city in harbour.WORDS}
    (empty / "other.py").write_text("def reply(messages, tools, sampling):\n    return 'ADD: Be brief.'\n")
    assert tutelage("run", "study.yaml")[0] == 0
    assert rules("expel") == {"Be brief."}


@pytest.mark.parametrize("calls", [20, 75, 150, 280])
def test_interrupted_and_continued_it_learns_the_same(calls, finished, empty, tutelage):
    write_study(empty, budget={"calls": calls})
    code, _, err = tutelage("run", "study.yaml")
    assert code == 3
    assert f"the budget of {calls} calls is spent" in err
    assert len(prompts(empty)) == calls
    write_study(empty, budget={"calls": 10_000})
    assert tutelage("run", "study.yaml")[0] == 0
    whole = finished / "runs/harbour"
    assert {arm: knowledge(arm).id for arm in ARMS} == {arm: knowledge(arm, whole).id for arm in ARMS}
    assert (scores("runs/harbour"), facts("runs/harbour")) == (GAIN, facts(whole))
    assert len(prompts(empty)) == len(prompts(finished))


# -- people


def id_of(text: str, arm: str = "expel") -> str:
    return next(entry.id for entry in knowledge(arm).insights if entry.text == text)


def test_people_change_what_was_learned_and_later_learning_keeps_it(folder, tutelage, ann):
    file = "runs/harbour/agents/expel.json"
    learned = len(knowledge("expel").history)
    assert ann("list", "runs/harbour", "--arm", "expel").count("on forms of") == 4
    added = ann("add", file, "Stamp every form.", "--by", "ann", "--note", "the harbour master asked")
    assert f"this is snapshot {learned + 1}" in added
    edited = id_of(rule("Quito"))
    ann("edit", file, edited, "Write sol on all forms of Quito.", "--by", "ann")
    ann("pin", file, id_of(rule("Oslo"))[:6], "--by", "ann")
    ann("remove", file, id_of(rule("Turin")), "--by", "ann", "--note", "says nothing")
    mine = {"Stamp every form.", "Write sol on all forms of Quito.", rule("Oslo"), rule("Kyoto")}
    assert rules("expel") == mine

    with (folder / "train.jsonl").open("a") as train:
        train.write(json.dumps(harbour.row(24)) + "\n")
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    assert rules("expel") == mine and "expel" in knowledge("expel").history[-1].by
    assert (id_of("Write sol on all forms of Quito."), scores("runs/harbour")["expel"]) == (edited, 1.0)
    assert knowledge("expel").pinned == {id_of(rule("Oslo"))}
    changes = [json.loads(line) for line in ann("history", file, "--json", "--limit", 500).splitlines()]
    by_ann = {(change["action"], change.get("note", "")) for change in changes if change["by"] == "person:ann"}
    assert by_ann >= {("add", "the harbour master asked"), ("pin", ""), ("remove", "says nothing")}
    assert sum(change["by"] == "person:ann" for change in changes) >= 4


def test_a_reflection_in_words_that_a_person_removed_is_not_said_to_be_held(folder, tutelage, ann):
    ann("remove", "runs/harbour/agents/expel.json", id_of(rule("Kyoto")), "--by", "ann")
    with (folder / "train.jsonl").open("a") as train:
        train.write(json.dumps(harbour.row(24)) + "\n")
    assert tutelage("run", "study.yaml")[0] == 0
    assert rule("Kyoto") not in rules("expel")
    assert knowledge("expel").held == ()
    assert facts("runs/harbour")["expel"]["reflections_held"] == 0


def test_differences_undo_and_files_of_rules(folder, ann):
    file = "runs/harbour/agents/expel.json"
    learned, before = len(knowledge("expel").history), knowledge("expel").id
    ann("add", file, "Stamp every form.", "--by", "ann")
    ann("remove", file, id_of(rule("Turin")), "--by", "ann")
    found = json.loads(ann("diff", f"{file}@{learned}", file, "--json"))
    assert [entry["text"] for entry in found["added"]] == ["Stamp every form."]
    assert [entry["text"] for entry in found["removed"]] == [rule("Turin")]
    said = ann("diff", f"{file}@{learned}", file)
    assert re.search(r"\+ \w+ insight: Stamp every form\.", said) and re.search(rf"- \w+ insight: {rule('Turin')}", said)
    ann("export", file, "rules.md")
    assert "- " in Path("rules.md").read_text() and "Stamp every form." in Path("rules.md").read_text()
    ann("undo", file, "--steps", 2, "--by", "ann")
    assert knowledge("expel").id == before
    assert re.search(r"person:ann.*remove", ann("history", file))
    assert "1 added, 0 edited, 0 held" in ann("import", file, "rules.md", "--by", "ann")
    assert rules("expel") == {"Stamp every form.", *(rule(city) for city in harbour.WORDS)}
    ann("export", "runs/harbour", "all.jsonl", "--arm", "reflexion")
    assert "18 added" in ann("import", "fresh.json", "all.jsonl", "--by", "ann")
    fresh = tt.Knowledge.model_validate_json(Path("fresh.json").read_text())
    assert fresh.reflections == knowledge("reflexion").reflections


def test_worth_is_measured_written_and_acted_on(folder, tutelage, ann):
    file = "runs/harbour/agents/expel.json"
    ann("add", file, harbour.HARMFUL, "--by", "ann")
    said = ann("worth", "study.yaml", "--arm", "expel", "--draws", 4, "--apply")
    assert "96 episodes: 24 training tasks x 4 draws" in said and "harms" in said
    listed = [json.loads(line) for line in ann("list", file, "--json").splitlines()]
    worth = {entry["text"]: entry["worth"] for entry in listed}
    assert all(worth[rule(city)] > 0 for city in ("Oslo", "Quito", "Kyoto"))
    assert worth[harbour.HARMFUL] < -0.3
    asked = len(prompts(folder))
    ann("worth", "study.yaml", "--arm", "expel", "--draws", 4)
    assert len(prompts(folder)) == asked
    ann("undo", file, "--by", "ann")
    careless = "runs/harbour/agents/careless.json"
    ann("worth", "study.yaml", "--arm", "careless", "--draws", 4, "--apply")
    agent = {"model": "scripted:harbour.py", "instructions": "Say the word alone.", "knowledge": careless}
    write_study(folder, {"tidied": {"curate": {"measure": False}}}, name="tidied", agent=agent)
    assert tutelage("run", "study.yaml")[0] == 0
    assert scores("runs/tidied") == {"baseline": 0.0, "tidied": 1.0}
    assert harbour.HARMFUL not in {entry.text for entry in knowledge("tidied", "runs/tidied").insights}


# -- contamination and injections


def test_a_test_question_in_the_instructions_is_reported(empty, tutelage):
    write_study(empty, {"expel": ARMS["expel"]})
    assert tutelage("run", "study.yaml", "--out", "clean")[0] == 0
    assert "warnings" not in report("clean")
    leaked = harbour.row(100)["input"]
    code, out, err = tutelage("run", "study.yaml", "--out", "leaked", "--set", f"agent.instructions='{leaked} Say plain.'")
    assert code == 0, err
    warned = " ".join(report("leaked")["warnings"])
    assert "1 test task" in warned and "the instructions" in warned
    for text in (out, Path("leaked/report.md").read_text(), Path("leaked/report.html").read_text()):
        assert "scores on them show memory, not learning" in " ".join(text.split())


def test_what_a_tool_commands_is_held_and_shown_to_no_model_until_released(empty, tutelage, ann):
    write_archive(empty)
    code, _, err = tutelage("run", "study.yaml")
    assert code == 0, err
    everything = prompts(empty)
    assert any("previous instructions" in words for prompt in everything for _, words in prompt)
    assert not any("previous instructions" in taught(prompt) for prompt in everything)
    assert not Path("stolen.txt").exists()
    assert scores("runs/archive")["reflexion"] == scores("runs/archive")["expel"] == 1.0

    kinds = {}
    for arm in ARCHIVE:
        listed = [json.loads(line) for line in ann("list", "runs/archive", "--arm", arm, "--held", "--json").splitlines()]
        assert all("set its instructions aside" in " ".join(entry["held"]) for entry in listed)
        kinds[arm] = {entry["kind"] for entry in listed}
    assert kinds == {
        "reflexion": {"reflection", "exemplar"},
        "expel": {"insight", "exemplar"},
        "exemplars": {"exemplar"},
        "stream": {"exemplar"},
    }
    assert facts("runs/archive")["reflexion"]["reflections_held"] >= 1

    file = "runs/archive/agents/expel.json"
    held = next(item.entry for item in knowledge("expel", "runs/archive").held if isinstance(item.entry, tt.Insight))
    assert "held" in ann("list", file, "--held") and held.text not in ann("list", file).split("held")[0]
    ann("release", file, held.id, "--by", "ann")
    assert held in knowledge("expel", "runs/archive").insights
    write_archive(empty, {}, knowledge=file)
    assert tutelage("run", "study.yaml", "--out", "released")[0] == 0
    assert Path("stolen.txt").exists()  # now it is shown, and this student obeys whatever it was taught


def test_without_the_screen_the_money_is_gone(empty, tutelage, monkeypatch):
    monkeypatch.setattr("tutelage.history.changes.faults", lambda entry, untrusted=(): ())
    write_archive(empty)
    assert tutelage("run", "study.yaml")[0] == 0
    assert any("previous instructions" in taught(prompt) for prompt in prompts(empty))
    assert Path("stolen.txt").exists()
