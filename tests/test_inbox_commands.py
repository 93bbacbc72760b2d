"""`tutelage inbox`: what the commands print, keep and refuse, and a person at a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutelage.advice import Question
from tutelage.commands.inbox import duration
from tutelage.commands.inbox_cli import inbox_app
from tutelage.errors import InputError
from tutelage.inbox import Inbox, State, Terms
from tutelage.records import Message, Task

ATTACK = "\x1b[2J\x1b]0;owned\x07 [red]Which[/red] :smile: [link=http://x]battery[/link] \u202e\x9b31m\r> answered"
COMMAND = "import sys; from tutelage.commands.inbox_cli import inbox_app; inbox_app(sys.argv[1:])"
TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"  # so that Ctrl-C comes from it
needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="uses signals and terminals of Unix")


def question(n: int = 0, **fields) -> Question:
    return Question(**{"text": f"Which battery fits the X{n}?", "task_id": f"t{n}", **fields})


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal of 80 columns, in a folder of our own."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "demo" / "experience.sqlite"
    Inbox(path).close()
    return path


@pytest.fixture
def inbox(store: Path):
    with Inbox(store) as opened:
        yield opened


def call(*words: object, stdin: str = "", fails: str | None = None) -> str:
    """What a command prints, at most 80 characters a line; with `fails` it must raise an `InputError` that says so."""
    result = CliRunner().invoke(inbox_app, [str(word) for word in words], input=stdin)
    if fails is not None:
        assert isinstance(result.exception, InputError), (result.output, result.exception)
        assert fails in str(result.exception)
    elif result.exception is not None:
        raise result.exception
    return result.output


def ask_all(inbox: Inbox, *questions: Question, **terms) -> list[str]:
    return [inbox.put(one, Terms(**terms)).id for one in questions]


# -- list and show


def test_the_list_fits_a_terminal_and_says_what_waits(inbox: Inbox):
    inbox.put(question(0), Terms(price=0.3, price_usd=2, seconds=600))
    inbox.put(question(1, kind="preference", to="ben", text="Which is better? " * 20), Terms(seconds=0))
    inbox.put(question(2))
    inbox.claim("anna")
    printed = call("list")
    assert max(map(len, printed.splitlines())) <= 80
    assert "runs/demo" in printed
    head, first = printed.splitlines()[1:3]
    assert head.split() == ["id", "kind", "asked", "left", "price", "who", "question"]
    assert question(0).id[:8] in first
    assert re.search(r"\b10 min|599 s", first)
    for words in ("0.3 + $2", "anna has it", "for ben", "preference", "overdue"):
        assert words in printed


def test_the_list_of_all_shows_what_became_of_them(inbox: Inbox):
    ids = ask_all(inbox, *map(question, range(4)))
    inbox.answer(ids[0], "B7", by="anna")
    inbox.decline(ids[1], by="anna")
    asyncio.run(inbox.ask(question(2), Terms(seconds=0)))
    inbox.answer(ids[2], "B7", by="anna")
    printed = call("list", "runs/demo")
    assert question(3).id[:8] in printed
    assert not any(one[:8] in printed for one in ids[:3])
    rows = [json.loads(line) for line in call("list", "runs/demo", "--all", "--json").splitlines()]
    assert [row["state"] for row in rows] == ["answered", "declined", "lapsed", "open"]
    assert [row["late"] for row in rows] == [False, False, True, False]
    printed = call("list", "--all")
    assert all(words in printed for words in ("answered", "declined", "lapsed, late"))


def test_nothing_waits(store: Path):
    assert call("list", store) == "nothing waits\n"
    assert "name another place: tutelage inbox list RUN" in call("list")
    assert call("list", "--json") == ""


def test_looking_through_all_runs_leaves_those_alone_that_never_asked(tmp_path: Path, inbox: Inbox):
    ask_all(inbox, question())
    other = tmp_path / "runs" / "other" / "experience.sqlite"
    other.parent.mkdir()
    other.write_bytes(b"no store at all")
    assert question().id[:8] in call("list")
    assert other.read_bytes() == b"no store at all"


def test_show_prints_all_of_it(inbox: Inbox):
    context = "def f():\n    return [1]\n" + "word " * 60
    (id_,) = ask_all(inbox, question(context=context, agent_version="v9", choices=("B7", "B8")), price=0.3, seconds=3600, fallback="big")
    printed = call("show", id_[:6])
    assert max(map(len, printed.splitlines())) <= 80
    for words in (
        "agent v9, task t0",
        "price 0.3",
        "then asks big",
        "|     return [1]",
        "| Which battery fits the X0?",
        "answer with: B7, B8",
    ):
        assert words in printed
    assert printed.count("word") == 60
    inbox.answer(id_, "b8", by="anna", note="page 3")
    printed = call("show", id_)
    for words in ("answered", "answer of person:anna", "not taken over yet", "| B8", "| page 3"):
        assert words in printed


@pytest.mark.parametrize("command", ["list", "show", "watch"])
def test_what_a_model_wrote_cannot_command_the_terminal(inbox: Inbox, command: str):
    asked = question(text=ATTACK, context=ATTACK, agent_version=ATTACK, to=ATTACK, choices=("a", ATTACK))
    (id_,) = ask_all(inbox, asked)
    with pytest.MonkeyPatch.context() as coloured:
        coloured.setenv("FORCE_COLOR", "1")
        coloured.setenv("TERM", "xterm-256color")
        words = {"list": [], "show": [id_], "watch": ["--by", ATTACK, "--until-empty"]}[command]
        printed = call(command, *words, stdin="\n")
    own = re.sub(r"\x1b\[[0-9;]*m", "", printed)  # rich's own colours; the text's would have left their digits behind
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", own)
    flat = re.sub(r"\s*\n(?:\| )?\s*", " ", own)
    assert "[red]Which[/red]" in flat.replace(" ", "")
    assert ":smile:" in flat
    assert "\N{REPLACEMENT CHARACTER}[2J" in flat
    assert not any(line.startswith("> answered") for line in own.splitlines())


# -- answer and decline


def test_an_answer_is_kept_with_who_gave_it(inbox: Inbox):
    (id_,) = ask_all(inbox, question(), price=0.3)
    assert call("answer", id_[:5], "The B7.", "--by", "anna", "--note", "page 3") == f"answered {id_[:8]}: The B7.\n"
    kept = inbox.entry(id_).answer
    assert (kept.answer, kept.by, kept.note) == ("The B7.", "person:anna", "page 3")
    call("answer", id_, "The B8.", "--by", "ben", fails="anna answered this on")


def test_an_answer_comes_from_standard_input_or_the_editor(inbox: Inbox, monkeypatch: pytest.MonkeyPatch):
    ids = ask_all(inbox, question(0), question(1))
    call("answer", ids[0], stdin="The B7.\nOr the B8.\n")
    assert inbox.entry(ids[0]).answer.answer == "The B7.\nOr the B8."
    call("answer", ids[1], fails="no words")


def test_a_late_answer_says_that_it_is_late(inbox: Inbox):
    asyncio.run(inbox.ask(question(), Terms(seconds=0)))
    assert "too late for the agent" in call("answer", question().id, "B7")


def test_declining_keeps_the_reason(inbox: Inbox):
    (id_,) = ask_all(inbox, question())
    assert call("decline", id_, "--by", "anna", "--note", "ask Ben") == f"declined {id_[:8]}\n"
    assert (inbox.entry(id_).closed_by, inbox.entry(id_).closed_why) == ("anna", "ask Ben")
    call("decline", id_, fails="declined already; there is nothing to decline")


def test_errors_say_the_way_out(inbox: Inbox, tmp_path: Path):
    (id_,) = ask_all(inbox, question(kind="grade"))
    call("answer", "zzz", "x", fails="`tutelage inbox list` shows the ids")
    call("answer", "", "x", fails="no question's id begins")
    call("show", id_, "--run", "runs/nothing", fails="give the folder that `tutelage run` wrote")
    call("list", "postgres://x", fails="not in postgres")
    call("answer", id_, "perhaps", fails="write right, wrong, or a number from 0 to 1")
    call("watch", "--minutes", "0", fails="a number of minutes above 0")
    with Inbox(tmp_path / "runs" / "twin" / "experience.sqlite") as twin:
        ask_all(twin, question(kind="grade"))
    call("answer", id_[:4], "right", fails="name the run with --run")
    call("answer", id_[:4], "right", "--run", "runs/twin")
    assert inbox.entry(id_).state is State.OPEN


def test_what_another_has_in_hand_is_not_answered(inbox: Inbox):
    (id_,) = ask_all(inbox, question())
    inbox.claim("anna")
    call("answer", id_, "B7", "--by", "ben", fails="anna has this question in hand until")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200000, "2 d")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


# -- watch


def test_watching_answers_one_after_the_other(inbox: Inbox):
    ids = ask_all(inbox, *map(question, range(4)), question(4, kind="grade"))
    typed = ["", "/nonsense", "The B7.", "/skip", "/decline not mine", "//quit is the word", "perhaps", "right"]
    printed = call("watch", "--by", "anna", "--until-empty", stdin="\n".join(typed) + "\n")
    assert "`perhaps` is no grade; write right" in printed
    assert printed.endswith("3 answered\n")
    states = [inbox.entry(id_).state for id_ in ids]
    assert states == [State.ANSWERED, State.OPEN, State.DECLINED, State.ANSWERED, State.ANSWERED]
    kept = [entry.answer.answer for entry in inbox.answered()]
    assert kept == ["The B7.", "/quit is the word", "right"]
    assert inbox.claim("ben").entry.id == ids[1], "what was skipped is free for others"


def test_the_end_of_the_input_gives_the_question_back(inbox: Inbox):
    ask_all(inbox, question())
    assert call("watch", "--until-empty", stdin="").endswith("0 answered\n")
    assert inbox.claim("ben") is not None


def test_watching_needs_something_to_watch(tmp_path: Path):
    call("watch", fails="name the run to watch: tutelage inbox watch RUN")


def test_a_question_that_was_answered_elsewhere_meanwhile_is_left(inbox: Inbox, monkeypatch: pytest.MonkeyPatch):
    ids = ask_all(inbox, question(0), question(1))
    lines = iter(["too slow", "The B8."])

    def typed(prompt: str) -> str:
        line = next(lines)
        if line == "too slow":
            call("answer", ids[0], "The B7.", "--by", "anna")
        return line

    monkeypatch.setattr("builtins.input", typed)
    printed = call("watch", "--by", "anna", "--until-empty")
    assert "anna answered this on" in printed
    assert [entry.answer.answer for entry in inbox.answered()] == ["The B7.", "The B8."]


# -- real processes and terminals


def start(*words: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


async def test_who_waits_goes_on_when_a_person_answers_in_another_process(store: Path):
    with Inbox(store) as inbox:
        waiting = asyncio.create_task(inbox.ask(question(), Terms(price=0.3, seconds=60)))
        await asyncio.sleep(0.1)
        listed = start("list", "runs/demo", "--json")
        row = json.loads((await asyncio.to_thread(listed.communicate))[0])
        assert row["question"]["text"] == question().text
        answered = start("answer", row["id"][:8], "The B7.", "--by", "anna")
        printed, _ = await asyncio.to_thread(answered.communicate)
        advice = await asyncio.wait_for(waiting, 5)
        assert printed == f"answered {row['id'][:8]}: The B7.\n"
        assert (advice.answer, advice.by) == ("The B7.", "person:anna")
        assert inbox.charged() == (0.3, 0.0)


class Terminal:
    """A person's terminal: a command in it, keys, and what stands on the screen."""

    def __init__(self, *words: object) -> None:
        import pty

        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-c", f"{TAKE_TERMINAL}; {COMMAND}", *map(str, words)]
        own = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=own)
        os.close(theirs)
        self.screen, self._read = "", 0

    def see(self, words: str, seconds: float = 20) -> None:
        """Read until the words stand there that were not there before."""
        import select

        until = time.monotonic() + seconds
        while (at := self.screen.find(words, self._read)) < 0:
            assert time.monotonic() < until, f"no `{words}` in:\n{self.screen}"
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # the program has ended
                    pytest.fail(f"no `{words}` in:\n{self.screen}")
        self._read = at + len(words)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        code = self.process.wait(20)
        os.close(self._ours)
        return code


@needs_unix
@pytest.mark.parametrize("seen", [True, False])
def test_a_person_watches_at_a_terminal_and_ctrl_c_gives_the_question_back(inbox: Inbox, seen: bool):
    ids = ask_all(inbox, question(0), question(1))
    terminal = Terminal("watch", "runs/demo", "--by", "anna")
    terminal.see("X0?")
    terminal.type("The B7.\n")
    terminal.see("answered " + ids[0][:8])
    if seen:
        terminal.see("X1?")
        assert inbox.entry(ids[1]).holder(datetime.now(UTC)) == "anna"
    terminal.type("half an ans\x03")  # if not seen, it is just being taken
    terminal.see("1 answered")
    assert terminal.end() == 0
    assert inbox.entry(ids[1]).holder(datetime.now(UTC)) == ""
    assert inbox.entry(ids[1]).state is State.OPEN


@needs_unix
def test_a_watch_that_is_killed_keeps_its_question_only_as_long_as_its_lease(inbox: Inbox):
    (id_,) = ask_all(inbox, question())
    watch = start("watch", "runs/demo", "--by", "anna", "--minutes", "0.03", stdin=subprocess.PIPE)
    while not inbox.entry(id_).leased_by:
        time.sleep(0.02)
    held = inbox.entry(id_).leased_until
    while inbox.entry(id_).leased_until == held:  # renewed while the person thinks
        time.sleep(0.02)
    assert inbox.claim("ben") is None
    watch.send_signal(signal.SIGKILL)
    watch.communicate()
    assert inbox.entry(id_).leased_by == "anna"
    ended = time.monotonic() + 10
    while (lease := inbox.claim("ben")) is None:
        assert time.monotonic() < ended
        time.sleep(0.05)
    assert lease.entry.id == id_


async def test_one_answer_serves_the_episode_and_later_memory(store: Path):
    """From a question to what is learned from its answer, through the commands alone."""
    task = Task(messages=(Message(role="user", content="Which battery fits the X0?"),))
    asked = question(text=task.text, task_id=task.id)
    with Inbox(store) as inbox:
        waiting = asyncio.create_task(inbox.ask(asked))
        watch = start("watch", "runs/demo", "--by", "anna", "--until-empty", stdin=subprocess.PIPE)
        await asyncio.sleep(0)
        await asyncio.to_thread(watch.communicate, "The B7.\n")
        assert (await asyncio.wait_for(waiting, 5)).answer == "The B7."
    with Inbox(store) as later:
        known = {entry.question.text: entry.answer.answer for entry in later.answered(kind="advice")}
        assert known == {task.text: "The B7."}
        assert next(later.answered()).asked <= datetime.now(UTC) + timedelta(seconds=1)
