"""A user's Python file: loaded once per content, and every failure names file and line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tutelage.errors import InputError
from tutelage.python_file import load_attribute, load_python, tools_of
from tutelage.records import ToolSpec
from tutelage.tool import Tool


def test_a_file_is_loaded_once_per_content(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("seen = []\n")
    first = load_python(file)
    first.seen.append(1)
    assert load_python(file) is first
    file.write_text("seen = ['new']\n")
    assert load_python(str(file)).seen == ["new"]
    assert "tools" not in sys.modules


def test_neighbours_can_be_imported_and_the_path_is_restored(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_test.py").write_text("value = 7\n")
    (tmp_path / "a.py").write_text("from neighbour_of_a_test import value\n")
    before = list(sys.path)
    assert load_python(tmp_path / "a.py").value == 7
    assert sys.path == before
    del sys.modules["neighbour_of_a_test"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("x = 1\ndef f(:\n", 2, "not valid Python"),
        ("x = 1\n\ny = 1 / 0\n", 3, "ZeroDivisionError"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", 2, "KeyError"),
        ("import a_package_that_is_not_there\n", 1, "ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit"),
        ("x = 1\ny = '\x00'\n", None, "null byte"),
    ],
)
def test_a_failing_file_names_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    file = tmp_path / "fails_at_once.py"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_python(file)
    assert caught.value.file == file
    assert words in str(caught.value)
    assert caught.value.line == line
    assert not [name for name in sys.modules if name.startswith("_tutelage_fails_at_once")]


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("")
    with pytest.raises(InputError, match=r"Did you mean `tools\.py`"):
        load_python(tmp_path / "tool.py")
    with pytest.raises(InputError, match="folder"):
        load_python(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_python(tmp_path / "nowhere" / "tools.py")
    (tmp_path / "tools.txt").write_text("")
    with pytest.raises(InputError, match=r"must end in \.py"):
        load_python(tmp_path / "tools.txt")


def test_attributes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def polite(): ...\n")
    assert load_attribute("own.py:polite", tmp_path).__name__ == "polite"
    assert load_attribute(f"{tmp_path}/own.py:polite").__name__ == "polite"
    with pytest.raises(InputError, match="Did you mean `polite`"):
        load_attribute("own.py:polit", tmp_path)
    for place in ("own.py", "own.py:", ":polite", "own.py:a b"):
        with pytest.raises(InputError, match=r"write file\.py:name"):
            load_attribute(place, tmp_path)


def test_tools_in_the_order_of_definition_each_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from tutelage.tool import Tool\nfrom tutelage.records import ToolSpec\n"
        "def make(name):\n    return Tool(ToolSpec(name=name, parameters={}))\n"
        "zeta = make('zeta')\nalpha = make('alpha')\nagain = zeta\n"
    )
    tools = tools_of(load_python(tmp_path / "own.py"))
    assert [tool.spec.name for tool in tools] == ["zeta", "alpha"]
    assert tools[0] == Tool(ToolSpec(name="zeta", parameters={}))
