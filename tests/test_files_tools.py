"""Listing, finding, searching, moving and deleting inside one folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import ToolError
from tutelage.records import ToolCall, ToolFailure
from tutelage.tool import call_tool
from tutelage.tools import files as files_module
from tutelage.tools import workspace as workspace_module
from tutelage.tools.files import Files, files_tools, matches_glob


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    for name, text in {"a.py": "import os\n", "src/b.py": "x = 1\ny = 2\n", "src/deep/c.txt": "needle\n", "src/deep/d.py": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("needle outside")
    return folder


@pytest.fixture
def files(root: Path) -> Files:
    return Files(root)


def names(text: str, root: Path) -> list[str]:
    return [line.removeprefix(f"{root}/") for line in text.splitlines()]


# --- list and find


def test_list_shows_kinds_and_sizes(files: Files, root: Path) -> None:
    (root / "link").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    listed = names(files.list(str(root)), root)
    assert listed == ["a.py  10", "link  symbolic link, not followed", "pipe  not a regular file", "src/"]
    assert names(files.list(str(root / "src"), depth=2), root) == ["src/b.py  12", "src/deep/", "src/deep/c.txt  7", "src/deep/d.py  0"]
    (root / "void").mkdir()
    assert files.list(str(root / "void")) == "(the folder is empty)"


def test_list_says_how_much_more_there_is(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "SHOWN_ENTRIES", 2)
    assert files.list(str(root), depth=9).endswith("\n[4 more]")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["a.py", "src/b.py", "src/deep/d.py"]),
        ("src/*.py", ["src/b.py"]),
        ("src/**/*.py", ["src/b.py", "src/deep/d.py"]),
        ("**/deep/*", ["src/deep/c.txt", "src/deep/d.py"]),
        ("[ab].py", ["a.py", "src/b.py"]),
        ("deep", ["src/deep/"]),
    ],
)
def test_find_by_wildcards(files: Files, root: Path, pattern: str, found: list[str]) -> None:
    assert [name.split("  ")[0] for name in names(files.find(pattern), root)] == found


def test_find_says_when_there_is_nothing(files: Files, root: Path) -> None:
    assert files.find("*.rs", str(root / "src")) == f"nothing below {root}/src has a name like *.rs"
    for pattern in ("", "..", "../*", "/", "a/../b"):
        with pytest.raises(ToolError, match="must name files below the folder"):
            files.find(pattern)


@given(st.lists(st.sampled_from(["a", "b", "ab"]), max_size=5), st.lists(st.sampled_from(["**", "a", "*", "?"]), max_size=5))
def test_glob_agrees_with_its_definition(path: list[str], wanted: list[str]) -> None:
    def slow(path: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not path
        if wanted[0] == "**":
            return any(slow(path[at:], wanted[1:]) for at in range(len(path) + 1))
        fits = bool(path) and (wanted[0] == "*" or wanted[0] == path[0] or (wanted[0] == "?" and len(path[0]) == 1))
        return fits and slow(path[1:], wanted[1:])

    assert matches_glob(path, wanted) == slow(path, wanted)


def test_hostile_wildcards_end(files: Files, root: Path) -> None:
    (root / ("a" * 200)).write_text("")
    began = time.perf_counter()
    files.find("*a" * 100 + "b")
    files.find("**/" * 300 + "x")
    assert time.perf_counter() - began < 5


# --- grep


def test_grep_finds_lines(files: Files, root: Path) -> None:
    (root / "crlf.txt").write_bytes(b"one\r\nTwo needle\r\n")
    assert names(files.grep(r"needle$"), root) == ["crlf.txt:2: Two needle", "src/deep/c.txt:1: needle"]
    assert names(files.grep("two", ignore_case=True), root) == ["crlf.txt:2: Two needle"]
    assert names(files.grep(r"^\w = \d", include="*.py"), root) == ["src/b.py:1: x = 1", "src/b.py:2: y = 2"]
    assert names(files.grep("x", str(root / "src/b.py")), root) == ["src/b.py:1: x = 1"]
    assert files.grep("zebra") == "no line matches in 5 files"


def test_grep_leaves_binary_files_and_links_out(files: Files, root: Path) -> None:
    (root / "x.bin").write_bytes(b"needle\0")
    (root / "latin.txt").write_bytes(b"caf\xe9 needle\n")
    (root / "link").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    said = files.grep("needle")
    assert "outside" not in said
    assert names(said, root) == ["latin.txt:1: caf\\xe9 needle", "src/deep/c.txt:1: needle", "[files left out: 1 binary or unreadable]"]


def test_grep_bounds_what_it_shows_and_reads(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "many.txt").write_text("hit\n" * 250)
    said = files.grep("hit").splitlines()
    assert len(said) == 101
    assert said[-1] == "[150 more matching lines]"
    (root / "long.txt").write_text("." * 5_000 + "target" + "." * 5_000)
    assert len(files.grep("target")) < 400
    monkeypatch.setattr(files_module, "MAX_BYTES", 100)
    assert "2 beyond the limit of 100 bytes" in files.grep("import")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", "(?:a?){30}a{30}z"])
def test_a_runaway_pattern_is_stopped(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    (root / "a.txt").write_text("a" * 5_000 + "!\n")
    monkeypatch.setattr(files_module, "SEARCH_SECONDS", 1.0)
    began = time.perf_counter()
    try:
        files.grep(pattern)
    except ToolError as error:
        assert "took more than 1 seconds and was stopped" in str(error)
    assert time.perf_counter() - began < 4


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999}", "*"])
def test_a_broken_pattern_is_explained(files: Files, pattern: str) -> None:
    with pytest.raises(ToolError, match=r"not a regular expression: .*backslash"):
        files.grep(pattern)


def test_patterns_have_a_length(files: Files) -> None:
    for pattern in ("", "x" * 2_000):
        with pytest.raises(ToolError, match="1 to 1000 characters"):
            files.grep(pattern)


def test_a_pattern_with_half_a_character_finds_nothing(files: Files) -> None:
    assert files.grep("\ud800").startswith("no line matches")


# --- move


def test_move_renames_and_makes_folders(files: Files, root: Path) -> None:
    assert files.move(str(root / "a.py"), str(root / "new/one/b.py")) == f"moved {root}/a.py to {root}/new/one/b.py"
    assert (root / "new/one/b.py").read_text() == "import os\n"
    assert not (root / "a.py").exists()
    files.move(str(root / "src"), str(root / "lib"))
    assert (root / "lib/deep/c.txt").exists()


def test_move_overwrites_nothing_and_stays_inside(files: Files, root: Path) -> None:
    tries = [
        ("{root}/a.py", "{root}/src/b.py", "exists already"),
        ("{root}/a.py", "{root}/src", "exists already"),
        ("{root}/absent", "{root}/x", "there is no"),
        ("{root}", "{root}/x", "workspace itself"),
        ("{root}/a.py", "{root}", "workspace itself"),
        ("{root}/src", "{root}/src/deep/src", "into itself"),
        ("{root}/a.py", "{root}/../outside/a.py", "not allowed"),
        ("{root}/a.py", "/tmp/a.py", "outside the workspace"),  # noqa: S108 -- it is refused
        ("/etc/passwd", "{root}/x", "outside the workspace"),
        ("{root}/a.py", "{root}/link/a.py", "links are not followed"),
        ("{root}/link/secret.txt", "{root}/x", "links are not followed"),
    ]
    (root / "link").symlink_to(root.parent / "outside")
    for source, target, says in tries:
        with pytest.raises(ToolError, match=says):
            files.move(source.format(root=root), target.format(root=root))
    assert (root / "a.py").read_text() == "import os\n"
    assert [item.name for item in (root.parent / "outside").iterdir()] == ["secret.txt"]


# --- delete


def test_delete_needs_a_word_for_full_folders(files: Files, root: Path) -> None:
    with pytest.raises(ToolError, match=r"not empty \(2 entries\); give recursive=true"):
        files.delete(str(root / "src"))
    assert (root / "src/b.py").exists()
    files.delete(str(root / "src"), recursive=True)
    files.delete(str(root / "a.py"))
    (root / "void").mkdir()
    files.delete(str(root / "void"))
    assert not list(root.iterdir())


def test_delete_removes_links_and_not_what_they_point_to(files: Files, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    (root / "src/up").symlink_to(root.parent / "outside")
    with pytest.raises(ToolError, match="links are not followed"):
        files.delete(str(root / "link/secret.txt"))
    files.delete(str(root / "link"), recursive=True)
    files.delete(str(root / "src"), recursive=True)
    assert (root.parent / "outside/secret.txt").exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("{root}", "workspace itself"),
        ("{root}/", "workspace itself"),
        ("{root}/.", "workspace itself"),
        ("{root}/..", "not allowed"),
        ("/", "outside"),
    ],
)
def test_the_workspace_itself_stays(files: Files, root: Path, path: str, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        files.delete(path.format(root=root), recursive=True)
    assert (root / "a.py").exists()


# --- bounds, and as tools


def test_walks_are_bounded(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = root
    for _ in range(80):
        deep = deep / "d"
        deep.mkdir()
    assert len(files.find("d").splitlines()) == 50
    monkeypatch.setattr(workspace_module, "MAX_ENTRIES", 3)
    assert len(files.list(str(root), depth=50).splitlines()) == 3


async def test_tools_turn_errors_into_observations(root: Path) -> None:
    tools = {item.spec.name: item for item in files_tools(root)}
    assert list(tools) == ["list", "find", "grep", "move", "delete"]
    call = ToolCall(id="1", name="delete", arguments=json.dumps({"path": "/", "recursive": True}))
    seen = await call_tool(tools["delete"], call)
    assert seen.failure is ToolFailure.RAISED
    assert "outside the workspace" in seen.text
    assert tools["grep"].spec.parameters["required"] == ["pattern"]
