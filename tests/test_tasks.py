"""Reading, writing and splitting tasks: every format, and files that are wrong in every way we thought of."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError, MissingExtra, SealedError, StoreError
from tutelage.records import ImagePart, Message, Task, TextPart, ToolCall, ToolSpec
from tutelage.tasks import check_splits, read_tasks, reference_messages, split_tasks, write_tasks

Write = Callable[..., Path]
USER = {"role": "user", "content": "Reset bob"}
TOOL = {"type": "function", "function": {"name": "reset", "description": "Resets.", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "reset", "arguments": '{"user": "bob"}'}}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows (objects as JSON, texts as they are, or bytes) to a file."""

    def written(*rows: Any, name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        if rows and isinstance(rows[0], bytes):
            path.write_bytes(b"".join(rows))
        else:
            path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        return path

    return written


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_tasks(path, **options)
    return str(caught.value)


class TestOpenAI:
    def test_the_last_message_of_the_assistant_is_the_reference(self, write: Write) -> None:
        rows = [
            {
                "messages": [{"role": "system", "content": "Help."}, USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
                "tools": [TOOL],
            },
            {"messages": [USER, {"role": "assistant", "content": "Hello!"}]},
            {"messages": [USER]},
            {"messages": [USER, {"role": "assistant", "content": "Hello!"}], "reference": ["Hi", "Hello"], "kind": "greeting"},
        ]
        called, said, open_, own = read_tasks(write(*rows))
        assert called.reference == {"calls": [{"name": "reset", "arguments": {"user": "bob"}}]}
        assert [message.role for message in called.messages] == ["system", "user"]
        assert called.tools == (ToolSpec(name="reset", description="Resets.", parameters={"type": "object", "properties": {}}),)
        assert said.reference == "Hello!"
        assert said.messages == open_.messages == (Message(role="user", content="Reset bob"),)
        assert open_.reference is None
        assert own.reference == ["Hi", "Hello"]
        assert own.kind == "greeting"
        assert called.source is not None
        assert called.source.endswith("train.jsonl:1")

    def test_calls_within_the_conversation_are_kept(self, write: Write) -> None:
        turns = [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0, "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "name": "reset", "content": "ok"},
            {"role": "assistant", "content": "Done."},
        ]
        (task,) = read_tasks(write({"messages": turns, "parallel_tool_calls": False}))
        assert task.messages[1].tool_calls == (ToolCall(id="c1", name="reset", arguments='{"user": "bob"}'),)
        assert task.messages[2] == Message(role="tool", content="ok", tool_call_id="c1")
        assert task.reference == "Done."

    def test_images(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "cat.png").write_bytes(b"png")
        parts = [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
            {"type": "image", "path": "cat.png"},
        ]
        (task,) = read_tasks(write({"messages": [{"role": "user", "content": parts}]}))
        assert task.messages[0].content == (
            TextPart(text="What is it?"),
            ImagePart(url="https://example.org/a.png"),
            ImagePart(url="data:image/png;base64,AAAA"),
            ImagePart(url=(tmp_path / "cat.png").as_posix()),
        )
        assert task.text == "What is it?"

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"messages": []}, "field `messages`: a list of messages"),
            ({"messages": "hi"}, "field `messages`"),
            ({"messages": [3]}, "field `messages.0`"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "no message before"),
            ({"messages": [USER], "refrence": "x"}, "Did you mean `reference`"),
            ({"messages": [{**USER, "colour": "red"}]}, "field `colour`"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "'system', 'user', 'assistant' or 'tool'"),
            ({"messages": [{"content": "x"}]}, "field `messages.0.role`"),
            ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
            ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "field `messages.0.content.0`: a part"),
            ({"messages": [{"role": "user", "content": [{"type": "image", "path": "none.png"}]}]}, "does not exist"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "no address"),
            ({"messages": [USER, {"role": "assistant", "tool_calls": 3}]}, "messages.1.tool_calls"),
            ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "x"}]}]}, "messages.1.tool_calls.0"),
            (
                {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{user"}}]}]},
                "messages.1.tool_calls.0.function.arguments`: not valid JSON at column 2",
            ),
            (
                {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "[1]"}}]}]},
                "must be a JSON object",
            ),
            (
                {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": {"a": 1}}}]}]},
                "as a string",
            ),
            ({"messages": [USER], "tools": {"name": "x"}}, "field `tools`: a list"),
            ({"messages": [USER], "tools": [{"type": "function"}]}, "field `tools.0`"),
            ({"messages": [USER], "tools": [{"name": "x", "parameters": "any"}]}, "tools.0.function.parameters"),
            ({"messages": [USER], "environment": [1]}, "field `environment`"),
        ],
    )
    def test_mistakes_name_line_and_field(self, write: Write, row: dict[str, Any], words: str) -> None:
        message = refused(write({"messages": [USER]}, row))
        assert "train.jsonl:2: " in message
        assert words in message


class TestPlain:
    def test_json_lines(self, write: Write) -> None:
        rows = [
            {"input": "2+2?", "reference": 4},
            {"input": "Go", "reference": None, "kind": "walk", "environment": {"start": [0, 1]}, "tools": [{"name": "go"}]},
            {"input": [{"type": "text", "text": "Hi"}]},
        ]
        one, two, three = read_tasks(write(*rows))
        assert one == Task(messages=(Message(role="user", content="2+2?"),), reference=4, source=one.source)
        assert (two.kind, two.environment, two.tools[0].name) == ("walk", {"start": [0, 1]}, "go")
        assert three.messages[0].content == (TextPart(text="Hi"),)

    def test_csv(self, write: Write) -> None:
        path = write("input,reference,environment", '"two\nlines, quoted",yes,"{""a"": 1}"', "", "plain,,", name="all.csv")
        one, two = read_tasks(path)
        assert (one.text, one.reference, one.environment) == ("two\nlines, quoted", "yes", {"a": 1})
        assert (two.text, two.reference) == ("plain", None)
        assert [str(task.source).rpartition(":")[2] for task in (one, two)] == ["2", "5"]
        assert read_tasks(write("input\treference", "a, b\tc", name="all.tsv"))[0].text == "a, b"

    def test_columns_rename_and_leave_the_others_out(self, write: Write) -> None:
        columns = {"input": "text", "reference": "category"}
        path = write("id,text,category", "1,Where is my card?,card_arrival", name="all.csv")
        (task,) = read_tasks(path, columns=columns)
        assert (task.text, task.reference) == ("Where is my card?", "card_arrival")
        (task,) = read_tasks(write({"text": "x", "category": [1], "id": 7}), columns=columns)
        assert (task.text, task.reference) == ("x", [1])

    @pytest.mark.parametrize(
        ("lines", "columns", "words"),
        [
            (
                ["text,category", "a,b"],
                None,
                'all.csv:2: field `input`: no `input`; the row has text, category. Say which column it is with columns={"input"',
            ),
            (["input,refrence", "a,b"], None, "all.csv:2: field `refrence`: unknown key. Did you mean `reference`"),
            (["input,reference", "a,b,c"], None, "all.csv:2: 3 cells where the header has 2"),
            (["input,reference", "a,b", '"open,c'], None, "all.csv:3: not valid CSV"),
            (["input,input", "a,b"], None, "all.csv:1: the header"),
            (["input,reference", " ,b"], None, "all.csv:2: field `input`: the input must be"),
            (["input,environment", "a,{b"], None, "all.csv:2: field `environment`: not valid JSON at column 2"),
            (["input,reference"], None, "there are no tasks"),
            (["text,label", "a,b"], {"input": "txt"}, "field `columns.input`: `txt` is not a column of this row. Did you mean `text`"),
            (["text,label", "a,b"], {"input": "text", "reference": "category"}, "columns.reference"),
            (["text,label", "a,b"], {"inputs": "text"}, "Did you mean `input`"),
            (["text,label", "a,b"], {"reference": "label"}, "must say which column is the `input`"),
        ],
    )
    def test_csv_mistakes(self, write: Write, lines: list[str], columns: dict[str, str] | None, words: str) -> None:
        assert words in refused(write(*lines, name="all.csv"), columns=columns)

    @pytest.mark.parametrize("value", ["", "  ", None, 3, [], {"a": 1}])
    def test_an_input_must_hold_something(self, write: Write, value: Any) -> None:
        assert "train.jsonl:1: field `input`" in refused(write({"input": value}))


class TestLeaderboard:
    question = {"id": "simple_0", "question": [[USER]], "function": [{"name": "a.b", "description": "d", "parameters": {}}]}  # noqa: RUF012
    answer = {"id": "simple_0", "ground_truth": [{"a.b": {"x": [1], "unit": ["m", ""]}}]}  # noqa: RUF012

    def test_types_become_json_schema(self, write: Write) -> None:
        parameters = {
            "type": "dict",
            "required": ["x"],
            "properties": {
                "x": {"type": "float", "description": "d", "default": 1.5},
                "p": {"type": "tuple", "items": {"type": "float"}, "optional": True},
                "o": {"type": "dict", "properties": {"type": {"type": "any"}}},
                "l": {"type": "array", "items": {"type": "dict", "properties": {"n": {"type": "integer"}}}},
            },
        }
        write(self.answer, name="simple_answers.jsonl")
        path = write({**self.question, "function": [{"name": "a.b", "description": "d", "parameters": parameters}]}, name="simple.jsonl")
        (task,) = read_tasks(path)
        assert task.tools[0].name == "a.b"
        assert task.tools[0].parameters == {
            "type": "object",
            "required": ["x"],
            "properties": {
                "x": {"type": "number", "description": "d", "default": 1.5},
                "p": {"type": "array", "items": {"type": "number"}},
                "o": {"type": "object", "properties": {"type": {}}},
                "l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            },
        }
        assert task.kind == "simple"
        assert isinstance(task.reference, dict)
        assert task.reference["calls"] == [
            {"name": "a.b", "arguments": {"x": 1, "unit": "m"}, "allowed": {"x": [1], "unit": ["m", ""]}, "optional": ["unit"]}
        ]

    def test_answers_in_the_leaderboards_own_folder(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "possible_answer").mkdir()
        write(self.answer, name="possible_answer/BFCL_v3_simple.json")
        (task,) = read_tasks(write(self.question, name="BFCL_v3_simple.json"))
        assert isinstance(task.reference, dict)

    def test_irrelevance_needs_no_answers(self, write: Write) -> None:
        (task,) = read_tasks(write({**self.question, "id": "live_irrelevance_3-1-0"}, name="irrelevance.jsonl"))
        assert task.reference == {"calls": []}
        assert task.kind == "live_irrelevance"

    def test_mistakes(self, write: Write) -> None:
        path = write(self.question, name="simple.jsonl")
        assert "no file of answers beside it" in refused(path)
        write({**self.answer, "id": "other"}, name="simple_answers.jsonl")
        assert "simple.jsonl:1: field `id`: the file of answers has no `simple_0`" in refused(path)
        write({**self.answer, "ground_truth": ["f(x=1)"]}, name="simple_answers.jsonl")
        assert "is not of the form" in refused(path)
        write(self.answer, name="simple_answers.jsonl")
        for change, words in [
            ({"question": [[USER], [USER]]}, "multi-turn"),
            ({"question": []}, "multi-turn"),
            ({"question": "Reset bob"}, "multi-turn"),
            ({"initial_config": {}}, "field `initial_config`"),
            ({"function": [{"name": "f", "parameters": {"type": "HashMap"}}]}, "function.0.parameters.type"),
            ({"function": [{"name": "f", "parameters": {"type": ["a"]}}]}, "function.0.parameters.type"),
            ({"function": [{"name": "f", "parameters": {"type": "dict", "properties": [1]}}]}, "function.0.parameters.properties"),
            ({"function": ["f"]}, "field `function.0`"),
        ]:
            assert words in refused(write({**self.question, **change}, name="simple.jsonl"))

    @pytest.mark.data
    def test_the_public_files(self, data: Path) -> None:
        tasks = [task for name in ("simple_python", "multiple", "irrelevance") for task in read_tasks(data / "bfcl" / f"{name}.jsonl")]
        assert len(tasks) == 840
        assert {task.kind for task in tasks} == {"simple_python", "multiple", "irrelevance"}
        schemas = json.dumps([spec.parameters for task in tasks for spec in task.tools])
        for theirs in ('"type": "dict"', '"type": "float"', '"type": "tuple"', '"type": "any"', '"optional": '):
            assert theirs not in schemas


class TestOwn:
    def test_written_tasks_come_back_with_equal_ids(self, tmp_path: Path) -> None:
        tasks = (
            Task(messages=(Message(role="user", content="\u2028 ü \U0001f600"),), reference={"calls": []}, source="old.jsonl:3"),
            Task(
                messages=(
                    Message(role="user", content=(TextPart(text="a"), ImagePart(url="x.png"))),
                    Message(role="assistant", content="b"),
                ),
                tools=(ToolSpec(name="t", parameters={"type": "object"}),),
                kind="k",
                environment={"n": [1, 2.5, None]},
            ),
        )
        path = tmp_path / "new" / "tasks.jsonl"
        write_tasks(path, tasks)
        back = read_tasks(path)
        assert [task.id for task in back] == [task.id for task in tasks]
        assert [task.input_id for task in back] == [task.input_id for task in tasks]
        assert back[0].source == f"{path}:1"
        assert back[1].reference is None  # a conversation that ends with the assistant is not a reference here

    def test_a_later_version_and_an_unknown_field_are_refused(self, write: Write) -> None:
        assert "this version reads 'tutelage.task/1'" in refused(write({"format": "tutelage.task/2", "messages": []}))
        assert "field `colour`" in refused(write({"format": "tutelage.task/1", "messages": [], "colour": 1}))

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "tasks.jsonl").mkdir()
        with pytest.raises(StoreError, match="cannot be written"):
            write_tasks(tmp_path / "tasks.jsonl", (ask("q"),))


class TestFiles:
    def test_byte_order_mark_empty_lines_and_crlf(self, write: Write) -> None:
        path = write(b'\xef\xbb\xbf{"input": "a"}\r\n', b"\r\n", b'   \n{"input": "b"}')
        tasks = read_tasks(path)
        assert [(task.text, task.source) for task in tasks] == [("a", f"{path}:1"), ("b", f"{path}:4")]
        path = write(b"\xef\xbb\xbfinput,reference\r\na,b\r\n", name="all.csv")
        assert read_tasks(path)[0].reference == "b"

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"input": "a",}', "not valid JSON at column 15"),
            ('{"input": "a"', "Write one object per line"),
            ("[1, 2]", "this line is an array"),
            ('"text"', "this line is a str"),
            ("7", "this line is a int"),
            ('{"input": "a", "reference": NaN}', "NaN is not JSON"),
            ('{"input": "a", "reference": ' + "[" * 100_000, "nested too deeply"),
            ('{"input": "a", "reference": ' + "9" * 5000 + "}", "not usable JSON"),
            ('{"input": "\\ud800"}', "surrogate"),
        ],
    )
    def test_a_broken_line(self, write: Write, line: str, words: str) -> None:
        message = refused(write('{"input": "ok"}', "", line))
        assert "train.jsonl:3: " in message
        assert words in message

    def test_not_utf8_names_the_byte(self, write: Write) -> None:
        path = write(b'{"input": "a"}\n', b'{"input": "\xe9"}\n')
        assert "train.jsonl:2: byte 0xe9 at position 26 of the file is not UTF-8" in refused(path)
        assert "byte 0xff at position 0" in refused(write('{"input": "a"}'.encode("utf-16")))
        path = write(b'\xef\xbb\xbf{"input": "a"}\n{"input": "\xe9"}\n')
        assert "position 29 " in refused(path)
        assert path.read_bytes()[29] == 0xE9

    def test_missing_and_empty_files(self, write: Write, tmp_path: Path) -> None:
        write({"input": "a"})
        assert "Did you mean `train.jsonl`" in refused(tmp_path / "trian.jsonl")
        assert "does not exist" in refused(tmp_path / "no" / "train.jsonl")
        assert "folder" in refused(tmp_path)
        assert "there are no tasks" in refused(write(b""))
        assert "there are no tasks" in refused(write(b"\xef\xbb\xbf\n \n"))

    def test_options(self, write: Write) -> None:
        path = write({"input": "a"}, {"input": "b"}, "broken")
        assert [task.text for task in read_tasks(path, limit=2)] == ["a", "b"]
        assert [task.text for task in read_tasks(path, limit=1, format="plain")] == ["a"]
        assert "at least 1" in refused(path, limit=0)
        assert "Did you mean `plain`" in refused(path, format="plane")
        assert "field `input`: unknown key. Known: messages" in refused(path, format="openai")
        assert "belongs to plain files" in refused(path, format="openai", columns={"input": "input"})

    def test_ten_thousand_rows_are_fast(self, write: Write) -> None:
        row = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": [TOOL]}
        path = write(*[row] * 10_000)
        start = process_time()  # of this process alone: another one's work does not count
        assert len(read_tasks(path)) == 10_000
        assert process_time() - start < 2

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        key=st.sampled_from(["messages", "tools", "reference", "kind", "environment", "input", "question", "function", "format", "id"]),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["role", "content", "type", "name", "function", "parameters", "text", "properties"]), inner
                )
            ),
            max_leaves=6,
        ),
        base=st.sampled_from(
            [{"messages": [USER]}, {"input": "a"}, TestLeaderboard.question, {"format": "tutelage.task/1", "messages": []}]
        ),
    )
    def test_any_row_is_read_or_refused(self, write: Write, key: str, value: Any, base: dict[str, Any]) -> None:
        path = write({**base, key: value}, name="irrelevance.jsonl")
        try:
            (task,) = read_tasks(path)
        except InputError as error:
            assert "irrelevance.jsonl" in str(error)
        else:
            assert task.id


class TestDatasets:
    @pytest.fixture
    def package(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """A stand-in for the package `datasets` that notes what was asked of it."""
        asked: list[tuple[Any, ...]] = []

        def load_dataset(path: str, name: str | None = None, *, split: str) -> list[dict[str, Any]]:
            asked.append((path, name, split))
            if path == "absent":
                raise FileNotFoundError("no such dataset")
            return [{"question": "2+2?", "answer": "4"}, {"question": "3+3?", "answer": "6"}]

        module = ModuleType("datasets")
        module.load_dataset = load_dataset  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)
        return asked

    def test_rows_of_a_split(self, package: list[tuple[Any, ...]]) -> None:
        columns = {"input": "question", "reference": "answer"}
        tasks = read_tasks("hf:openai/gsm8k:test?config=main", columns=columns, limit=1)
        assert [(task.text, task.reference, task.source) for task in tasks] == [("2+2?", "4", "hf:openai/gsm8k:test?config=main:1")]
        assert len(read_tasks("hf:squad", columns=columns)) == 2
        assert package == [("openai/gsm8k", "main", "test"), ("squad", None, "train")]

    def test_mistakes(self, package: list[tuple[Any, ...]]) -> None:
        assert "FileNotFoundError: no such dataset" in refused("hf:absent")
        assert "write hf:NAME" in refused("hf:")
        assert "write hf:NAME" in refused("hf:squad?split=test")
        assert "hf:squad:1: field `input`" in refused("hf:squad")

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtra, match=r"pip install 'tutelage\[datasets\]'"):
            read_tasks("hf:squad")


def ask(text: str, reference: Any = None, source: str | None = None) -> Task:
    return Task(messages=(Message(role="user", content=text),), reference=reference, source=source)


class TestSplit:
    def test_sizes_seeds_and_disjointness(self) -> None:
        tasks = [ask(f"q{number}") for number in range(50)]
        train, test = split_tasks(tasks, 30, 15, seed=1)
        assert (len(train), len(test)) == (30, 15)
        assert not {task.id for task in train} & {task.id for task in test}
        assert split_tasks(tasks[::-1], 30, 15, seed=1) == (train, test)  # the file's order does not matter
        assert split_tasks(tasks, 30, 15, seed=2) != (train, test)
        assert split_tasks(tasks, 5, 15, seed=1) == (train[:5], test)  # nor does the size of the training split for the test split
        assert list(train) != sorted(train, key=lambda task: int(task.text[1:]))

    @settings(max_examples=100, deadline=None)
    @given(
        questions=st.lists(st.integers(0, 12), min_size=8, max_size=40),
        train=st.integers(1, 6),
        test=st.integers(1, 6),
        seed=st.integers(0, 99),
    )
    def test_equal_questions_never_straddle(self, questions: list[int], train: int, test: int, seed: int) -> None:
        tasks = [ask(f"q{question}", reference=number) for number, question in enumerate(questions)]
        try:
            trained, tested = split_tasks(tasks, train, test, seed)
        except InputError as error:
            assert "Ask for fewer" in str(error)
            return
        assert (len(trained), len(tested)) == (train, test)
        assert len({task.id for task in trained + tested}) == train + test
        check_splits(trained, tested)

    def test_too_few(self) -> None:
        tasks = [ask("a", 1, "all.jsonl:1"), ask("a", 2, "all.jsonl:2"), ask("b", 3, "all.jsonl:3")]
        with pytest.raises(InputError, match=r"all\.jsonl: field `tasks`: 2 training and 2 test .* there are 3 with 2 different questions"):
            split_tasks(tasks, 2, 2, seed=0)
        for train, test in ((0, 1), (1, 0), (1, -1)):
            with pytest.raises(InputError, match="at least one task"):
                split_tasks(tasks, train, test, seed=0)

    def test_overlap_is_refused_with_both_places(self) -> None:
        train = [ask("a", 1, "train.jsonl:1"), ask("b", 1, "train.jsonl:2")]
        with pytest.raises(SealedError) as caught:
            check_splits(train, [ask("c", 1, "test.jsonl:1"), ask("b", 1, "test.jsonl:9")])
        assert "1 test question stands in the training split too: train.jsonl:2 and test.jsonl:9." in str(caught.value)
        assert "Remove" in str(caught.value)
        with pytest.raises(SealedError, match="the same question with another reference"):
            check_splits(train, [ask("b", 2, "test.jsonl:9")])
        many = [ask(f"q{number}") for number in range(5)]
        with pytest.raises(SealedError, match=r"5 test questions stand.*and 2 more"):
            check_splits(many, many)
        check_splits(train, [ask("c")])

    def test_an_empty_split_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"tasks\.train"):
            check_splits([], [ask("a")])
        with pytest.raises(InputError, match=r"tasks\.test"):
            check_splits([ask("a")], [])


class TestReferenceMessages:
    @pytest.mark.parametrize(
        ("reference", "text"),
        [
            ("Paris", "Paris"),
            (["Paris", "Lyon"], "Paris"),
            (42, "42"),
            (2.5, "2.5"),
            ({"name": "Ann", "n": [1]}, '{"name": "Ann", "n": [1]}'),
            ([1, 2], "[1, 2]"),
            ({"calls": []}, "No tool is needed for this."),
            ({"calls": [], "text": "Hello!"}, "Hello!"),
        ],
    )
    def test_texts(self, reference: Any, text: str) -> None:
        assert reference_messages(ask("q", reference)) == (Message(role="assistant", content=text),)

    def test_calls(self) -> None:
        reference = {
            "calls": [{"name": "reset", "arguments": {"user": "bób"}, "allowed": {"user": ["bób", "x"]}}, {"name": "status"}],
            "text": "Right away.",
        }
        calls = (ToolCall(id="call_1", name="reset", arguments='{"user": "bób"}'), ToolCall(id="call_2", name="status", arguments="{}"))
        assert reference_messages(ask("q", reference)) == (Message(role="assistant", content="Right away.", tool_calls=calls),)

    def test_none_and_broken(self) -> None:
        assert reference_messages(ask("q")) is None
        with pytest.raises(InputError, match=r"train\.jsonl:1: field `reference\.calls\.0\.name`"):
            reference_messages(ask("q", {"calls": [{}]}, "train.jsonl:1"))


@pytest.mark.data
def test_banking77(data: Path) -> None:
    columns = {"input": "text", "reference": "category"}
    train, test = (read_tasks(data / "banking77" / f"{name}.csv", columns=columns) for name in ("train", "test"))
    assert (len(train), len(test)) == (10_003, 3_080)
    assert len({task.reference for task in train}) == 77
    check_splits(train, test)
