"""The experience store among processes: several writers, sudden death, full disks, and the lock on a run's folder."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.errors import InputError, StoreError
from tutelage.experience.store import RunLock, Store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses signals and file-size limits of Unix")

HELPERS = """
import os, sys
from datetime import UTC, datetime
from tutelage.errors import StoreError
from tutelage.experience.store import RunLock, Store
from tutelage.records import *

def experience(task_id):
    context = (Message(role="user", content="please reset my password " + "x" * 1000),)
    step = Step(completion=Completion(message=Message(role="assistant", content="done")))
    segments = (Segment(context=context, steps=(step,)),)
    episode = Episode(task_id=task_id, agent_version="v", segments=segments, answer=task_id, stop="answered")
    return Experience(episode=episode, grade=Grade(score=1.0), when=datetime.now(UTC))
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """A Python process with the helpers above."""
    command = [sys.executable, "-c", HELPERS + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def check_whole(path: Path) -> list[str]:
    """The answers of all episodes, after making sure that the file is sound and each episode has its grade."""
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert raw.execute("SELECT count(*) FROM episodes WHERE id NOT IN (SELECT episode_id FROM grades)").fetchone() == (0,)
    with Store(path) as store:
        return [x.episode.answer or "" for x in store.experiences()]


def test_four_processes_lose_nothing(tmp_path: Path) -> None:
    code = """
store = Store(sys.argv[1])
for n in range(100):
    store.add(experience(f"{sys.argv[2]}-{n}"), study="s")
    store.record_look("split", f"{sys.argv[2]}-{n}")
"""
    writers = [start(code, tmp_path / "x.sqlite", writer) for writer in range(4)]
    for writer in writers:
        finish(writer)
    answers = check_whole(tmp_path / "x.sqlite")
    assert sorted(answers) == sorted(f"{writer}-{n}" for writer in range(4) for n in range(100))
    with Store(tmp_path / "x.sqlite") as store:
        assert store.record_look("split", "one more") == 401


def test_many_may_make_the_same_store_at_once(tmp_path: Path) -> None:
    code = """
sys.stdin.readline()
Store(sys.argv[1]).add(experience(sys.argv[2]), study="s")
"""
    openers = [start(code, tmp_path / "x.sqlite", n) for n in range(4)]
    for opener in openers:  # all have been started: let them go at once
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    for opener in openers:
        finish(opener)
    assert sorted(check_whole(tmp_path / "x.sqlite")) == [str(n) for n in range(4)]
    with sqlite3.connect(tmp_path / "x.sqlite") as raw:
        assert raw.execute("SELECT version FROM schema_version").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("after", [1, 1500])
def test_what_was_reported_survives_a_kill(tmp_path: Path, after: int) -> None:
    code = """
store = Store(sys.argv[1])
for n in range(1_000_000):
    store.add(experience(str(n)), study="s")
    print(n, flush=True)
"""
    writer = start(code, tmp_path / "x.sqlite")
    assert writer.stdout is not None
    reported = [writer.stdout.readline().strip() for _ in range(after)]
    writer.kill()  # in the middle of whatever it is doing
    reported += writer.stdout.read().split("\n")[:-1]
    assert writer.wait() == -signal.SIGKILL
    answers = check_whole(tmp_path / "x.sqlite")
    assert answers[: len(reported)] == reported
    assert len(answers) - len(reported) in (0, 1)  # the last one may have been stored and not yet reported
    with Store(tmp_path / "x.sqlite") as store:
        assert len(store.load("s", "v")) == len(answers)


def test_a_full_file_system_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    code = """
import resource
store = Store(sys.argv[1])
store.add(experience("first"), study="s")
size = os.path.getsize(sys.argv[1] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
try:
    for n in range(1000):
        store.add(experience(str(n)), study="s")
        print(n)
except StoreError as refused:
    print(refused)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.add(experience("there is room again"), study="s")
"""
    *stored, refused = finish(start(code, tmp_path / "x.sqlite")).splitlines()
    assert str(tmp_path / "x.sqlite") in refused
    assert "Make room and run again" in refused
    assert len(stored) > 3
    assert check_whole(tmp_path / "x.sqlite") == ["first", *stored, "there is room again"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine may enter and read, and only its owner may write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


BECOME_SOMEBODY_ELSE = """
Store().close()  # loads all that is needed, perhaps from folders that only root may read
if os.geteuid() == 0:  # root may write everywhere
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
"""


def test_a_folder_that_may_only_be_read_is_named(open_folder: Path) -> None:
    folder = open_folder / "run"
    folder.mkdir(mode=0o555)
    code = f"""{BECOME_SOMEBODY_ELSE}
file = Store, sys.argv[1] + "/x.sqlite"
deeper = Store, sys.argv[1] + "/deeper/x.sqlite"
lock = RunLock, sys.argv[1]
for kind, place in (file, deeper, lock):
    try:
        kind(place).__enter__()
        print("no refusal")
    except StoreError as refused:
        print(refused)
"""
    opened, made, locked = finish(start(code, folder)).splitlines()
    assert f"{folder}/x.sqlite: it cannot be opened or made. Check the folder and its permissions" in opened
    assert f"{folder}/deeper cannot be made: Permission denied" in made
    assert f"{folder}/.lock cannot be written and locked: Permission denied" in locked


def test_a_file_that_may_only_be_read_is_read_and_refuses_to_be_written(open_folder: Path) -> None:
    code = f"""{BECOME_SOMEBODY_ELSE}
store = Store(sys.argv[1])
print(len(list(store.experiences())))
try:
    store.add(experience("more"), study="s")
except StoreError as refused:
    print(refused)
"""
    path = open_folder / "x.sqlite"
    finish(start('Store(sys.argv[1]).add(experience("a"), study="s")', path))
    open_folder.chmod(0o777)  # SQLite needs its two helper files beside the store even to read
    path.chmod(0o444)
    count, refused = finish(start(code, path)).splitlines()
    assert count == "1"
    assert f"{path}: it may only be read" in refused


def test_a_child_process_must_open_the_store_itself(tmp_path: Path) -> None:
    code = """
store = Store(sys.argv[1])
if os.fork() == 0:
    try:
        store.add(experience("child"), study="s")
    except StoreError as refused:
        print(refused, flush=True)
    os._exit(0)
os.wait()
store.add(experience("parent"), study="s")
"""
    assert "opened by another process" in finish(start(code, tmp_path / "x.sqlite"))
    assert check_whole(tmp_path / "x.sqlite") == ["parent"]


# the lock on a run's folder


def test_a_second_run_on_one_folder_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run"):
        with pytest.raises(InputError) as refused:
            RunLock(tmp_path / "run").__enter__()
        with RunLock(tmp_path / "other"):
            pass
    message = str(refused.value)
    assert message.startswith(f"another run (pid {os.getpid()}, since 20")
    assert message.endswith(f") is writing to {tmp_path / 'run'}; wait for it, or choose another --out")
    with RunLock(tmp_path / "run"):
        pass


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path):
        pass


def test_a_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    holder = start("RunLock(sys.argv[1]).__enter__(); print('locked', flush=True); sys.stdin.readline()", tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=rf"another run \(pid {holder.pid}, since "):
        RunLock(tmp_path).__enter__()
    holder.kill()
    holder.communicate()
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())


def test_a_lock_whose_holder_is_not_written_down_yet_is_still_a_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(InputError, match=r"another run is writing to"):
            RunLock(tmp_path).__enter__()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file, and a folder is needed"):
        RunLock(tmp_path / "run").__enter__()
    with pytest.raises(StoreError, match="cannot be written"):
        RunLock(tmp_path / "run" / "deeper").__enter__()
