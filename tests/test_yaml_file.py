"""Complaints about YAML and files that cannot be written."""

from __future__ import annotations

import pytest

from tutelage.errors import InputError, StoreError
from tutelage.files import write_atomically
from tutelage.study.sections import StudyFile
from tutelage.yaml_file import read_yaml


def written(folder, text):
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def test_every_problem_is_told_and_the_first_is_located(tmp_path):
    path = written(
        tmp_path, "name: x\nagent: {model: scripted:echo, sampling: {temperature: hot}}\ntasks: {train: a, tset: b}\ngrader: exact\n"
    )
    with pytest.raises(InputError) as caught:
        read_yaml(path).parse(StudyFile)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: field `agent.sampling.temperature`")
    assert "tasks.test" in message
    assert "Did you mean `test`" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b\n", "key: value"),
        ("", "empty"),
        ("a: 1\n\tb: 2\n", "s.yaml:2"),
        ("a: [1, 2\n", "begun in line 1"),
        ("a: 1\nb: {c: 1, c: 2}\n", "s.yaml:2"),
    ],
)
def test_what_is_no_mapping_or_no_yaml(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_yaml(written(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_yaml(tmp_path / "s.yaml")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "report.md"
    write_atomically(target, "one")
    write_atomically(target, "two")
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["report.md"]
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomically(target / "below a file.md", "three")
    write_atomically(target, "cut \ud83d here")
    assert target.read_text() == "cut ? here"
    assert [path.name for path in target.parent.iterdir()] == ["report.md"]
