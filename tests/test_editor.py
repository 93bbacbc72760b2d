"""The editor: what it changes, what it leaves, what it refuses, and that nothing leads out of its folder."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import InputError, ToolError
from tutelage.records import ToolCall, ToolFailure
from tutelage.tool import call_tool
from tutelage.tools import editor as editor_module
from tutelage.tools import workspace as workspace_module
from tutelage.tools.editor import LEVELS, Editor, editor_tools
from tutelage.tools.text_file import find_all, inserted, lines_of, replaced
from tutelage.tools.workspace import Workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("SECRET")
    return folder


@pytest.fixture
def editor(root: Path) -> Editor:
    return Editor(root)


def write(root: Path, name: str, data: bytes | str) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


# --- view


def test_a_file_is_shown_with_line_numbers(editor: Editor, root: Path) -> None:
    path = write(root, "a.txt", "one\ntwo\nthree\n")
    assert editor.view(path) == "     1\tone\n     2\ttwo\n     3\tthree"
    assert editor.view(path, [2, -1]) == "     2\ttwo\n     3\tthree"
    assert editor.view(path, [2, 2]) == "     2\ttwo"
    assert editor.view(path, [3, 99]) == "     3\tthree"


def test_an_empty_file_is_said_to_be_empty(editor: Editor, root: Path) -> None:
    assert editor.view(write(root, "a.txt", "")) == "(the file is empty)"


@pytest.mark.parametrize(
    ("view_range", "says"),
    [
        ([0, 2], "begins at 0, but the file has 3 lines"),
        ([4, 5], "begins at 4, but the file has 3 lines"),
        ([3, 2], r"ends \(2\) before it begins \(3\)"),
        ([-1, 2], "begins at -1"),
        ([1], "two numbers"),
        ([1, 2, 3], "two numbers"),
    ],
)
def test_a_wrong_range_is_explained(editor: Editor, root: Path, view_range: list[int], says: str) -> None:
    with pytest.raises(ToolError, match=says):
        editor.view(write(root, "a.txt", "1\n2\n3"), view_range)


def test_a_folder_is_shown_two_levels_deep(editor: Editor, root: Path) -> None:
    write(root, "b/c/d.txt", "x")
    write(root, "b/e.txt", "xy")
    write(root, ".git/config", "x")
    (root / "link").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    assert editor.view(str(root)).splitlines() == [
        f"{root}/",
        "  .git/",
        "  b/",
        "    c/",
        "    e.txt (2 bytes)",
        "  link (symbolic link, not followed)",
        "  pipe (not a regular file)",
    ]
    with pytest.raises(ToolError, match="for files"):
        editor.view(str(root), [1, 2])


def test_a_million_lines_are_shown_and_edited_in_part(editor: Editor, root: Path) -> None:
    path = write(root, "big.txt", "\n".join(f"line {number}" for number in range(1, 1_000_001)))
    began = time.perf_counter()
    shown = editor.view(path)
    assert len(shown) < 17_000
    assert shown.splitlines()[-1].endswith(" of 1000000 are shown; view the rest with view_range]")
    assert editor.view(path, [1_000_000, -1]) == "1000000\tline 1000000"
    editor.str_replace(path, "line 777777\n", "changed\n")
    with pytest.raises(ToolError, match="The nearest line is"):
        editor.str_replace(path, "linee 777", "x")
    assert editor.view(path, [777_777, 777_777]) == "777777\tchanged"
    assert time.perf_counter() - began < 30


def test_a_long_line_is_cut(editor: Editor, root: Path) -> None:
    assert editor.view(write(root, "a", "x" * 5_000)).endswith("x[... 3000 characters more]")


# --- create


def test_create_writes_with_folders_and_never_overwrites(editor: Editor, root: Path) -> None:
    path = str(root / "new/deep/a.txt")
    assert editor.create(path, "hello\n") == f"created {path} (1 lines)"
    assert Path(path).read_text() == "hello\n"
    with pytest.raises(ToolError, match="exists already and is not overwritten"):
        editor.create(path, "other")
    with pytest.raises(ToolError, match="exists already"):
        editor.create(str(root / "new"), "other")
    assert Path(path).read_text() == "hello\n"


def test_create_does_not_write_through_a_dangling_link(editor: Editor, root: Path) -> None:
    (root / "out").symlink_to(root.parent / "made.txt")
    with pytest.raises(ToolError, match="exists already"):
        editor.create(str(root / "out"), "x")
    assert not (root.parent / "made.txt").exists()


# --- str_replace


def test_exactly_one_match_is_replaced_and_shown(editor: Editor, root: Path) -> None:
    path = write(root, "a.py", "def f():\n    return 1\n")
    said = editor.str_replace(path, "return 1", "return 2")
    assert said == f"changed {path}:\n     1\tdef f():\n     2\t    return 2"
    assert Path(path).read_text() == "def f():\n    return 2\n"


def test_several_matches_are_named(editor: Editor, root: Path) -> None:
    path = write(root, "a", "x\nab\nx\n")
    with pytest.raises(ToolError, match=r"several times: on lines 1, 3\. Add lines"):
        editor.str_replace(path, "x", "y")
    with pytest.raises(ToolError, match=r"on lines 1, 1"):
        editor.str_replace(write(root, "b", "aaa"), "aa", "b")  # overlapping: it is not clear which is meant
    with pytest.raises(ToolError, match=r"1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and more"):
        editor.str_replace(write(root, "c", "q\n" * 50), "q", "b")


def test_no_match_names_the_nearest_line(editor: Editor, root: Path) -> None:
    path = write(root, "a.py", "import os\n\ndef total(items):\n\treturn sum(items)\n")
    with pytest.raises(ToolError, match=r"does not occur in the file, which has 4 lines\. The nearest line is 3: 'def total\(items\):'"):
        editor.str_replace(path, "def total(item):", "x")
    with pytest.raises(ToolError, match=r"Lines 3 to 4 differ from it only in white space"):
        editor.str_replace(path, "def total(items):\n    return sum(items)", "x")
    with pytest.raises(ToolError, match="View it first"):
        editor.str_replace(path, "zebra", "x")


def test_another_unicode_form_is_told(editor: Editor, root: Path) -> None:
    with pytest.raises(ToolError, match="Line 2 has the same characters in another Unicode form"):
        editor.str_replace(write(root, "a", "x\ncafe\N{COMBINING ACUTE ACCENT}\n"), "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "tea")


def test_pointless_calls_are_refused(editor: Editor, root: Path) -> None:
    path = write(root, "a", "x\n")
    for call in (lambda: editor.str_replace(path, "", "y"), lambda: editor.str_replace(path, "x", "x"), lambda: editor.insert(path, 0, "")):
        with pytest.raises(ToolError, match=r"empty|the same"):
            call()


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"a\r\nb\r\nc\r\n", "b", "B", b"a\r\nB\r\nc\r\n"),
        (b"a\r\nb\r\nc\r\n", "a\nb\n", "1\n2\n3\n", b"1\r\n2\r\n3\r\nc\r\n"),
        (b"a\nb\r\nc\rd\n", "b\nc", "B\nC", b"a\nB\r\nC\rd\n"),
        (b"\xef\xbb\xbfa\nb\n", "b", "B", b"\xef\xbb\xbfa\nB\n"),
        (b"caf\xe9\nx\n", "x", "y", b"caf\xe9\ny\n"),
        (b"a\r\n\r\nb", "\nb", "b", b"a\r\nb"),
        (b"no end", "end", "END", b"no END"),
    ],
)
def test_what_is_not_meant_stays_byte_for_byte(editor: Editor, root: Path, before: bytes, old: str, new: str, after: bytes) -> None:
    path = write(root, "a", before)
    Path(path).chmod(0o754)
    editor.str_replace(path, old, new)
    assert Path(path).read_bytes() == after
    assert Path(path).stat().st_mode & 0o777 == 0o754
    editor.undo(path)
    assert Path(path).read_bytes() == before
    assert [item.name for item in root.iterdir()] == ["a"]


TEXT = st.text(alphabet="ab\r\n", max_size=12)


@given(TEXT, st.text(alphabet="ab\n", min_size=1, max_size=3))
def test_matches_are_those_of_the_text_with_one_kind_of_line_end(text: str, wanted: str) -> None:
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    spans = list(find_all(text, wanted))
    assert len(spans) == sum(plain.startswith(wanted, at) for at in range(len(plain)))
    for start, end in spans:
        assert text[start:end].replace("\r\n", "\n").replace("\r", "\n") == wanted
        assert replaced(text, (start, end), wanted) == text


@given(TEXT, st.text(alphabet="ab\n", min_size=1, max_size=4), st.data())
def test_inserted_lines_stand_after_the_line(text: str, new: str, data: st.DataObject) -> None:
    lines = lines_of(text)
    after = data.draw(st.integers(0, len(lines)))
    assert lines_of(inserted(text, after, new)) == [*lines[:after], *lines_of(new), *lines[after:]]


# --- insert


def test_insert_keeps_line_ends(editor: Editor, root: Path) -> None:
    path = write(root, "a", b"a\r\nb")
    editor.insert(path, 0, "top")
    editor.insert(path, 3, "last\nof all")
    assert Path(path).read_bytes() == b"top\r\na\r\nb\r\nlast\r\nof all"
    with pytest.raises(ToolError, match="from 0 to 5, the number of lines of the file, not 9"):
        editor.insert(path, 9, "x")
    with pytest.raises(ToolError, match="not -1"):
        editor.insert(path, -1, "x")


# --- undo


def test_undo_goes_back_step_by_step_to_nothing(editor: Editor, root: Path) -> None:
    path = str(root / "a")
    editor.create(path, "0\n")
    for number in range(3):
        editor.str_replace(path, str(number), str(number + 1))
    assert "3 earlier edits" in editor.undo(path)
    assert Path(path).read_text() == "2\n"
    editor.undo(path)
    editor.undo(path)
    assert Path(path).read_text() == "0\n"
    assert "removed the file again" in editor.undo(path)
    assert not Path(path).exists()
    with pytest.raises(ToolError, match=r"no edit of .* to undo"):
        editor.undo(path)


def test_undo_is_bounded_and_per_file(editor: Editor, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write(root, "one", "0"), write(root, "two", "x")
    editor.str_replace(two, "x", "y")
    for number in range(LEVELS + 5):
        editor.str_replace(one, str(number), str(number + 1))
    for _ in range(LEVELS):
        editor.undo(one)
    assert Path(one).read_text() == "5"
    with pytest.raises(ToolError, match="no edit"):
        editor.undo(one)
    editor.undo(two)
    assert Path(two).read_text() == "x"
    monkeypatch.setattr(editor_module, "KEPT_BYTES", 10)
    editor.str_replace(two, "x", "y" * 20)
    with pytest.raises(ToolError, match="no edit"):
        editor.undo(two)


def test_undo_does_not_lose_what_others_wrote(editor: Editor, root: Path) -> None:
    path = write(root, "a", "x")
    editor.str_replace(path, "x", "y")
    Path(path).write_text("someone else's")
    with pytest.raises(ToolError, match="changed by something else"):
        editor.undo(path)
    assert Path(path).read_text() == "someone else's"


# --- what is no text, or too much


def test_binary_special_and_huge_files_are_refused(editor: Editor, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="binary file"):
        editor.view(write(root, "a.bin", b"\x7fELF\0\0"))
    os.mkfifo(root / "pipe")
    for call in (lambda: editor.view(str(root / "pipe")), lambda: editor.str_replace(str(root / "pipe"), "a", "b")):
        with pytest.raises(ToolError, match="not a regular file"):
            call()
    with pytest.raises(ToolError, match="is a folder"):
        editor.str_replace(str(root), "a", "b")
    monkeypatch.setattr(workspace_module, "MAX_BYTES", 10)
    with pytest.raises(ToolError, match="more than 10 bytes"):
        editor.view(write(root, "big", "x" * 11))
    with pytest.raises(ToolError, match="at most 10 are written"):
        editor.create(str(root / "new"), "x" * 11)


def test_text_that_no_file_can_hold_is_refused(editor: Editor, root: Path) -> None:
    for text in ("half \ud800", "raw byte \udc80", "nul \0"):
        with pytest.raises(ToolError, match=r"surrogate|NUL"):
            editor.create(str(root / "a"), text)
    assert not list(root.iterdir())


# --- nothing leads out


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/etc/passwd", "outside the workspace"),
        ("/", "outside the workspace"),
        ("", "outside the workspace"),
        ("{root}/../secret.txt", r"`\.\.` is not allowed"),
        ("{root}/a/../../secret.txt", r"`\.\.` is not allowed"),
        ("{root}x", "outside the workspace"),
        ("{root}-other/secret.txt", "outside the workspace"),
        ("~/a", "outside the workspace"),
        ("{root}/a\0b", "NUL"),
        ("{root}/" + "n" * 300, "File name too long"),
        ("{root}/\ud800", "surrogates not allowed|no "),
        ("file://{root}/a.txt", "outside the workspace"),
    ],
)
def test_paths_outside_are_refused(editor: Editor, root: Path, path: str, says: str) -> None:
    for call in (
        editor.view,
        lambda name: editor.create(name, "x"),
        lambda name: editor.str_replace(name, "SECRET", "x"),
        lambda name: editor.insert(name, 0, "x"),
        editor.undo,
    ):
        with pytest.raises(ToolError, match=f"{says}|no edit"):
            call(path.format(root=root))
    assert (root.parent / "secret.txt").read_text() == "SECRET"


def test_a_relative_path_is_told_the_right_one(editor: Editor, root: Path) -> None:
    write(root, "notes/a.txt", "x")
    for given_path in ("notes/a.txt", "./notes/a.txt", "/notes/a.txt"):
        with pytest.raises(ToolError) as raised:
            editor.view(given_path)
        assert str(raised.value).endswith(f"Did you mean {root}/notes/a.txt?")


def test_a_missing_file_names_near_ones(editor: Editor, root: Path) -> None:
    write(root, "notes/readme.md", "x")
    with pytest.raises(ToolError, match=r"there is no .*/notes/readme\.txt\. In .*/notes: Did you mean `readme\.md`"):
        editor.view(str(root / "notes/readme.txt"))


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "inside.txt"])
def test_links_are_not_followed(editor: Editor, root: Path, target: str) -> None:
    write(root, "inside.txt", "SECRET")
    (root / "link").symlink_to(target)
    for call in (lambda: editor.view(str(root / "link")), lambda: editor.str_replace(str(root / "link"), "SECRET", "x")):
        with pytest.raises(ToolError, match="symbolic link; links are not followed"):
            call()


def test_a_linked_folder_is_not_entered(editor: Editor, root: Path) -> None:
    (root / "up").symlink_to(root.parent)
    for call in (lambda: editor.view(str(root / "up/secret.txt")), lambda: editor.create(str(root / "up/new.txt"), "x")):
        with pytest.raises(ToolError, match=r"/up is a symbolic link; links are not followed"):
            call()
    assert not (root.parent / "new.txt").exists()


def test_a_link_swapped_in_while_others_work_gains_nothing(root: Path) -> None:
    """A folder changes into a link to the outside and back, again and again, under readers and writers."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text("SECRET")
    write(root, "folder/a.txt", "mine")
    (root / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "folder").rename(root / "kept")
            (root / "link").rename(root / "folder")
            (root / "folder").rename(root / "link")
            (root / "kept").rename(root / "folder")

    swapper = threading.Thread(target=swap)
    swapper.start()
    space, read, refused = Workspace(root), set(), 0
    try:
        until = time.perf_counter() + 1.0
        while time.perf_counter() < until:
            try:
                read.add(space.read(("folder", "a.txt")))
                space.replace(("folder", "a.txt"), b"mine")
            except ToolError:
                refused += 1
    finally:
        stop.set()
        swapper.join()
    assert read == {b"mine"}
    assert refused
    assert sorted(item.name for item in outside.iterdir()) == ["a.txt"]
    assert (outside / "a.txt").read_text() == "SECRET"


def test_the_workspace_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing folder"):
        Editor(tmp_path / "absent")


def test_the_workspace_may_itself_be_reached_by_a_link(root: Path) -> None:
    write(root, "a", "x")
    (root.parent / "alias").symlink_to(root)
    editor = Editor(root.parent / "alias")
    assert editor.view(str(root.parent / "alias/a")) == editor.view(str(root / "a")) == "     1\tx"


# --- as tools


async def test_the_tools_share_their_history_and_turn_errors_into_observations(root: Path) -> None:
    tools = {item.spec.name: item for item in editor_tools(root)}
    assert list(tools) == ["view", "create", "str_replace", "insert", "undo"]

    async def call(name: str, **arguments: object) -> tuple[str, ToolFailure | None]:
        seen = await call_tool(tools[name], ToolCall(id="1", name=name, arguments=json.dumps(arguments)))
        return seen.text, seen.failure

    path = str(root / "a.txt")
    assert (await call("create", path=path, file_text="x\n"))[1] is None
    assert (await call("str_replace", path=path, old_str="x", new_str="y"))[1] is None
    assert (await call("undo", path=path))[0].startswith("undid the last edit")
    assert (await call("view", path=path)) == ("     1\tx", None)
    text, failure = await call("view", path="/etc/passwd")
    assert failure is ToolFailure.RAISED
    assert text.startswith("`/etc/passwd` is outside the workspace")
    assert (await call("view", path=path, view_range=["1", 2]))[1] is ToolFailure.BAD_ARGUMENTS
