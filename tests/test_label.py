"""`tutelage label`: keys, undo, an order that hides which is a, resuming, several people, sudden death, and a real terminal."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tutelage.commands.label import keys_of
from tutelage.commands.label_cli import label
from tutelage.commands.label_log import LabelLog, order_of
from tutelage.errors import InputError, StoreError
from tutelage.graders.labels import Item, Labelled, read_items, read_labelled

APP = typer.Typer()
APP.command()(label)
COMMAND = "import typer; from tutelage.commands.label_cli import label; typer.run(label)"
TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="uses signals and terminals of Unix")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def write(name: str, *rows: dict) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int) -> Path:
    return write("pairs.jsonl", *({"id": f"x{n}", "task": f"task {n}?", "a": f"first {n}", "b": f"second {n}"} for n in range(count)))


def answers(count: int) -> Path:
    return write("answers.jsonl", *({"id": f"x{n}", "task": f"task {n}?", "answer": f"answer {n}"} for n in range(count)))


def call(*words: object, keys: str = "", by: str = "anna", fails: str | None = None) -> str:
    """What the command prints; with `fails` it must raise an `InputError` that says so."""
    result = CliRunner().invoke(APP, [*map(str, words), "--annotator", by], input=keys)
    if fails is not None:
        assert isinstance(result.exception, InputError | StoreError), (result.output, result.exception)
        assert fails in str(result.exception)
    elif result.exception is not None:
        raise result.exception
    return result.output


def kept(path: str = "labels.jsonl") -> list[tuple[str, str, object]]:
    return [(one.id, one.annotator, one.label) for one in read_labelled(path)]


def acts(path: str = "labels.jsonl.log") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# -- keys


def test_right_or_wrong():
    printed = call(answers(3), "--out", "labels.jsonl", keys="rwr")
    assert kept() == [("x0", "anna", "right"), ("x1", "anna", "wrong"), ("x2", "anna", "right")]
    assert "3 of 3 labelled, 0 skipped, 0 left: labels.jsonl" in printed
    assert max(map(len, printed.splitlines())) <= 80
    (first, *_) = read_labelled("labels.jsonl")
    assert (first.kind, first.task, first.answers) == ("right_wrong", "task 0?", ("answer 0",))
    assert first.when is not None


def test_scores():
    call(answers(3), "--out", "labels.jsonl", "--kind", "score", "--scale", "0-3", keys="0 3\n5 1")
    assert kept() == [("x0", "anna", 0.0), ("x1", "anna", 3.0), ("x2", "anna", 1.0)]


def test_keys_that_mean_nothing_change_nothing():
    printed = call(answers(1), "--out", "labels.jsonl", keys="x?R")
    assert kept() == [("x0", "anna", "right")]
    assert "`x` is no key here. r: right, w: wrong; s: skip, u: undo, q: quit" in printed


def test_quitting_and_going_on():
    file = answers(4)
    first = call(file, "--out", "labels.jsonl", keys="rq")
    assert "1 of 4 labelled, 0 skipped, 3 left" in first
    assert "Run the same command again to go on." in first
    second = call(file, "--out", "labels.jsonl", keys="sw")  # then the input ends
    assert "task 0?" not in second
    assert kept() == [("x0", "anna", "right"), ("x2", "anna", "wrong")]
    third = call(file, "--out", "labels.jsonl", keys="w")
    assert "task 1?" not in third
    assert "--skipped" in third
    call(file, "--out", "labels.jsonl", "--skipped", keys="r")
    assert sorted(kept()) == [(f"x{n}", "anna", label) for n, label in enumerate(("right", "right", "wrong", "wrong"))]
    assert "4 of 4 labelled" in call(file, "--out", "labels.jsonl", keys="wwww")


def test_undo_goes_back_through_labels_and_skips_also_of_earlier_sessions():
    file = answers(3)
    call(file, "--out", "labels.jsonl", keys="rs")
    printed = call(file, "--out", "labels.jsonl", keys="uuuw")
    assert printed.count("took back the last one") == 2
    assert "there is nothing to take back" in printed
    assert kept() == [("x0", "anna", "wrong")]
    assert [act["did"] for act in acts()] == ["label", "skip", "undo", "undo", "label"], "the log forgets nothing"


def test_taking_back_the_only_label_leaves_a_file_that_goes_on():
    file = answers(1)
    call(file, "--out", "labels.jsonl", keys="ru")
    assert Path("labels.jsonl").read_text() == ""
    call(file, "--out", "labels.jsonl", keys="w")
    assert kept() == [("x0", "anna", "wrong")]


# -- the order of two answers


def test_which_stands_first_is_hidden_recorded_and_undone_in_the_label():
    file = pairs(40)
    printed = call(file, "--out", "labels.jsonl", keys="1" * 40)
    firsts = re.findall(r"answer 1:\n\| (first|second)", printed)
    assert [label for _, _, label in kept()] == ["a" if first == "first" else "b" for first in firsts]
    assert [act["order"] for act in acts()] == ["ab" if first == "first" else "ba" for first in firsts]
    assert 8 <= firsts.count("first") <= 32  # 20 expected, standard deviation 3.2
    assert "first 0" in printed
    assert not re.search(r"^(a|b):", printed, re.MULTILINE)


def test_the_order_is_a_coin_of_its_own_for_each_person_and_the_same_again():
    items = read_items(pairs(64))
    orders = {who: [order_of(item, who, 0) for item in items] for who in ("anna", "ben")}
    assert orders["anna"] == [order_of(item, "anna", 0) for item in items]
    assert orders["anna"] != orders["ben"]
    assert orders["anna"] != [order_of(item, "anna", 1) for item in items]
    assert order_of(read_items(answers(1))[0], "anna", 0) == ""


@given(st.text(), st.text(), st.text(), st.integers())
def test_the_better_one_is_the_better_one_however_it_is_shown(name, who, better, seed):
    item = Item(id=name, kind="pairwise", task="?", answers=(better, better + "worse"))
    order = order_of(item, who, seed)
    shown = item.answers if order == "ab" else item.answers[::-1]
    keys = keys_of(item, order, [])
    assert keys["1" if shown[0] == better else "2"] == "a"
    assert keys["2" if shown[0] == better else "1"] == "b"
    assert keys["t"] == "tie"


# -- files


def test_several_people_in_one_file():
    file = answers(2)
    call(file, "--out", "labels.jsonl", keys="rr", by="anna")
    call(file, "--out", "labels.jsonl", keys="wr", by="ben")
    call(file, "--out", "labels.jsonl", keys="uw", by="anna")
    assert sorted(kept()) == [("x0", "anna", "right"), ("x0", "ben", "wrong"), ("x1", "anna", "wrong"), ("x1", "ben", "right")]


def test_columns_of_other_names():
    Path("votes.csv").write_text("qid,question,left,right\n7,Which?,one,two\n")
    call("votes.csv", "--out", "labels.jsonl", "--columns", "id=qid, task=question,a=left,b=right", keys="t")
    assert kept() == [("7", "anna", "tie")]
    assert read_labelled("labels.jsonl")[0].answers == ("one", "two")


def test_what_was_labelled_already_may_be_labelled_anew_into_another_file():
    call(answers(2), "--out", "labels.jsonl", keys="rr", by="anna")
    printed = call("labels.jsonl", "--out", "second.jsonl", keys="wr", by="ben")
    assert "anna" not in printed
    assert kept("second.jsonl") == [("x0", "ben", "wrong"), ("x1", "ben", "right")]


def test_labels_without_a_log_count():
    file = answers(2)
    call(file, "--out", "labels.jsonl", keys="r")
    Path("labels.jsonl.log").unlink()
    printed = call(file, "--out", "labels.jsonl", keys="w")
    assert "task 0?" not in printed
    assert kept() == [("x0", "anna", "right"), ("x1", "anna", "wrong")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.jsonl", "--out", "labels.jsonl"], "no such file"),
        (["answers.jsonl", "--out", "answers.jsonl"], "name another one for the labels"),
        (["answers.jsonl", "--out", "labels.csv"], "name a .jsonl file"),
        (["answers.jsonl", "--out", "other.jsonl"], "was not written by `tutelage label`"),
        (["answers.jsonl", "--out", "."], "this is a folder"),
        (["answers.jsonl", "--out", "labels.jsonl", "--kind", "paired"], "Did you mean `pairwise`?"),
        (["answers.jsonl", "--out", "labels.jsonl", "--kind", "pairwise"], "no text to show"),
        (["answers.jsonl", "--out", "labels.jsonl", "--scale", "1-10"], "two digits, as 1-5"),
        (["answers.jsonl", "--out", "labels.jsonl", "--scale", "5-1"], "two digits, as 1-5"),
        (["answers.jsonl", "--out", "labels.jsonl", "--columns", "answer"], "write OURS=THEIRS"),
        (["answers.jsonl", "--out", "labels.jsonl", "--columns", "reply=answer"], "write OURS=THEIRS"),
        (["answers.jsonl", "--out", "labels.jsonl", "--columns", "answer=reply"], "`reply`"),
        (["answers.jsonl", "--out", "broken.jsonl"], "is no log of labels"),
        (["ids.jsonl", "--out", "labels.jsonl"], "no text to show"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_shown(words: list[str], said: str):
    answers(1)
    write("other.jsonl", {"id": "1", "text": "mine"})
    write("broken.jsonl.log", {"id": "1"})
    write("ids.jsonl", {"id": "1"})
    call(*words, keys="r", fails=said)
    assert not Path("labels.jsonl").exists()
    assert json.loads(Path("other.jsonl").read_text()) == {"id": "1", "text": "mine"}


def test_what_a_model_wrote_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    attack = "\x1b[2J [red]right[/red] :smile: \u202e\r\nkept: r"
    printed = call(write("x.jsonl", {"id": "1", "task": attack, "answer": attack}), "--out", "labels.jsonl", keys="w")
    own = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", own)
    assert "[red]right[/red] :smile:" in own
    assert own.count("\n| kept: r") == 2
    assert own.count("\nkept: ") == 1


# -- sudden death


def log(*, by: str = "anna", count: int = 5) -> LabelLog:
    return LabelLog(Path("labels.jsonl"), read_items(answers(count)), by)


def test_a_label_that_was_logged_and_not_written_is_written_at_the_next_start():
    first = log()
    item = read_items("answers.jsonl")[0]
    first.label(item, "right", "")
    before = Path("labels.jsonl").read_text()
    Path("labels.jsonl").unlink()  # as if killed between the two
    assert log().labelled == {"x0"}
    assert Path("labels.jsonl").read_text() == before


def test_an_undo_that_was_logged_and_not_written_is_written_at_the_next_start():
    first = log()
    item = read_items("answers.jsonl")[0]
    first.label(item, "right", "")
    labels = Path("labels.jsonl").read_text()
    first.undo()
    Path("labels.jsonl").write_text(labels)
    assert log().labelled == set()
    assert Path("labels.jsonl").read_text() == ""


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.jsonl.log"])
def test_half_a_line_is_cut_off_and_its_item_comes_again_or_is_known(name: str):
    file = answers(3)
    call(file, "--out", "labels.jsonl", keys="rr")
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[:-20])
    printed = call(file, "--out", "labels.jsonl", keys="wwww")
    assert "half a line at the end of the file was cut off" in printed
    assert [item for item, _, _ in kept()] == ["x0", "x1", "x2"]


def test_a_last_line_without_an_ending_is_whole():
    file = answers(2)
    call(file, "--out", "labels.jsonl", keys="r")
    path = Path("labels.jsonl")
    path.write_bytes(path.read_bytes().rstrip())
    assert "cut off" not in call(file, "--out", "labels.jsonl", keys="w")
    assert kept() == [("x0", "anna", "right"), ("x1", "anna", "wrong")]


def test_what_another_person_did_meanwhile_survives_an_undo():
    anna, ben = log(by="anna"), log(by="ben")
    items = read_items("answers.jsonl")
    anna.label(items[0], "right", "")
    ben.label(items[0], "wrong", "")
    ben.label(items[1], "wrong", "")
    anna.label(items[1], "right", "")
    assert ben.undo() == "x1"
    assert anna.undo() == "x1"
    assert sorted(kept()) == [("x0", "anna", "right"), ("x0", "ben", "wrong")]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["anna", "ben"]), st.sampled_from("rwsu")), max_size=25), st.randoms(use_true_random=False))
def test_the_labels_are_what_a_list_of_acts_would_say(tmp_path_factory: pytest.TempPathFactory, steps, chance):
    """Against a model in memory, with restarts in between and lines lost from the file of labels."""
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    items = [Item(id=f"x{n}", kind="right_wrong", task=f"task {n}", answers=("yes",)) for n in range(8)]
    done: dict[str, list[tuple[str, str]]] = {"anna": [], "ben": []}
    logs = {who: LabelLog(path, items, who) for who in done}
    for who, key in steps:
        if chance.random() < 0.2:
            if path.exists() and chance.random() < 0.5:
                path.write_text("".join(line for line in path.open() if chance.random() < 0.5))
            logs[who] = LabelLog(path, items, who)
        free = [item for item in items if item.id not in dict(done[who])]
        if key == "u":
            expected = done[who].pop()[0] if done[who] else None
            assert logs[who].undo() == expected
        elif free:
            done[who].append((free[0].id, key))
            logs[who].skip(free[0]) if key == "s" else logs[who].label(free[0], {"r": "right", "w": "wrong"}[key], "")
    for who, steps_of in done.items():
        last = LabelLog(path, items, who)
        assert last.labelled == {item for item, key in steps_of if key != "s"}
        assert last.skipped == {item for item, key in steps_of if key == "s"}
    found = read_labelled(path) if path.exists() and path.stat().st_size else ()
    expected_labels = [(who, item, {"r": "right", "w": "wrong"}[key]) for who in done for item, key in done[who] if key != "s"]
    assert Counter((one.annotator, one.id, one.label) for one in found) == Counter(expected_labels)


def start(file: Path, by: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, str(file), "--out", "labels.jsonl", "--annotator", by]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@needs_unix
def test_two_people_are_killed_at_random_and_every_label_that_was_confirmed_is_kept():
    file, chance = answers(300), random.Random(3)
    confirmed: dict[str, list[str]] = {"anna": [], "ben": []}

    def work(who: str) -> None:
        for _ in range(2):
            session = start(file, who)
            session.stdin.write(b"rwru" * 300)
            session.stdin.flush()
            said = ""
            while said.count("kept") < 3:
                line = session.stdout.readline().decode()
                assert line, said
                said += line
            time.sleep(chance.uniform(0, 0.1))
            session.send_signal(signal.SIGKILL)
            said += session.stdout.read().decode()
            confirmed[who] += re.findall(r"^(kept: [rw]|took back)", said, re.MULTILINE)
            session.wait()
            session.stdin.close()
            session.stdout.close()

    people = [threading.Thread(target=work, args=(who,)) for who in confirmed]
    for person in people:
        person.start()
    for person in people:
        person.join()
    for who, said in confirmed.items():
        assert len(said) >= 6
        logged = [act for act in acts() if act["annotator"] == who]
        assert len(logged) - len(said) in range(3), "each session may have logged one act and not said so"
        call(file, "--out", "labels.jsonl", keys="q", by=who)
        standing: dict[str, str] = {}
        for act in logged:
            standing.update({act["item"]: act["label"]} if act["did"] == "label" else {})
            if act["did"] == "undo":
                del standing[act["item"]]
        assert {item: label for item, by, label in kept() if by == who} == standing
    assert max(Counter((item, by) for item, by, _ in kept()).values()) == 1


# -- a real terminal


@needs_unix
def test_single_keys_at_a_terminal_and_ctrl_c_keeps_everything():
    import pty

    file = pairs(5)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", f"{TAKE_TERMINAL}; {COMMAND}", str(file), "--out", "labels.jsonl", "--annotator", "anna"]
    session = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    screen, read = "", 0

    def see(words: str) -> None:
        nonlocal screen, read
        until = time.monotonic() + 20
        while (at := screen.find(words, read)) < 0:
            assert time.monotonic() < until, f"no `{words}` in:\n{screen}"
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    screen += os.read(ours, 65536).decode()
                except OSError:
                    pytest.fail(f"no `{words}` in:\n{screen}")
        read = at + len(words)

    see("task 0?")
    for keys, answer in (
        ("1", "kept: 1"),  # no Enter is needed
        ("\x1b[1;5C\x1bOA 2", "kept: 2"),  # arrow keys send digits too
        ("T", "kept: t"),
        ("u", "took back"),
        ("s", "skipped"),
    ):
        see("q: quit")
        os.write(ours, keys.encode())
        see(answer)
    see("task 3?")
    os.write(ours, b"\x03")
    see("2 of 5 labelled, 1 skipped, 2 left")
    assert session.wait(10) == 0
    os.close(ours)
    labels = {item: label for item, _, label in kept()}
    orders = {act["item"]: act["order"] for act in acts() if act["did"] == "label"}
    assert labels == {"x0": "a" if orders["x0"] == "ab" else "b", "x1": "b" if orders["x1"] == "ab" else "a"}


def test_a_label_of_ours_is_a_label_of_theirs():
    one = Labelled(id="x", kind="score", task="t", answers=("a",), label=3.0, annotator="anna")
    assert Labelled.model_validate(one.model_dump()) == one
