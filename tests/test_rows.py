"""Files of rows: every format that TRL takes, what is wrong with a file, and what TRL makes of the files that are written."""

from __future__ import annotations

import json

import pytest

from tutelage.errors import InputError
from tutelage.records import Message, ToolCall, ToolSpec
from tutelage.training.row_files import read_preference_rows, read_rows, read_sft_rows, read_step_rows, write_rows
from tutelage.training.rows import PreferenceRow, SFTRow, StepRow
from tutelage.training.steps_text import split_steps, step_rows


def user(text):
    return Message(role="user", content=text)


def assistant(text="", *calls):
    return Message(role="assistant", content=text, tool_calls=calls)


def call(arguments='{"n": 7}', id="call_1", name="find"):
    return ToolCall(id=id, name=name, arguments=arguments)


FIND = ToolSpec(name="find", description="d", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
TOOLS = [{"type": "function", "function": {"name": "find", "description": "d", "parameters": FIND.parameters}}]
Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def written(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(folder, *rows):
    with pytest.raises(InputError) as error:
        read_rows(written(folder, *rows))
    return str(error.value).removeprefix(str(folder / "rows.jsonl"))


def test_prompt_and_completion_as_texts_and_as_messages(tmp_path):
    plain = SFTRow(prompt=(user("q"),), completion=(assistant("a"),))
    rows = read_sft_rows(written(tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": [Q], "completion": [A], "id": 3}))
    assert [row.model_copy(update={"source": None}) for row in rows] == [plain, plain]
    assert [row.source for row in rows] == [f"{tmp_path / 'rows.jsonl'}:{line}" for line in (1, 2)]
    (answer,) = read_sft_rows(written(tmp_path, {"prompt": "q", "completion": '[{"a": 1}]'}))
    assert answer.completion == (assistant('[{"a": 1}]'),), "an answer may be JSON"


def test_messages_with_tools_in_every_spelling(tmp_path):
    spellings = [
        {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"n": 7}'}},
        {"id": "call_1", "function": {"name": "find", "arguments": {"n": 7}}},
        {"name": "find", "arguments": {"n": 7}},
    ]
    result = {"role": "tool", "content": "seen", "name": "find"}
    for spelling in spellings:
        for tools in (TOOLS, json.dumps(TOOLS), [TOOLS[0]["function"]]):
            row = {"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [spelling]}, result, A], "tools": tools}
            (read,) = read_sft_rows(written(tmp_path, row))
            seen = Message(role="tool", content="seen", tool_call_id="call_1")
            assert read.prompt == (user("q"),)
            assert read.completion == (assistant("", call()), seen, assistant("a"))
            assert read.tools == (FIND,)
    with_text = {"messages": [Q, {"role": "assistant", "tool_calls": json.dumps(spellings[:1])}]}
    (read,) = read_sft_rows(written(tmp_path, with_text))
    assert read.completion == (assistant("", call()),)


def test_a_weight_of_zero_keeps_a_turn_from_being_learned(tmp_path):
    messages = [Q, {**A, "weight": 0}, Q, {**A, "weight": 1}]
    (row,) = read_sft_rows(written(tmp_path, {"messages": messages}))
    assert (row.without_loss, row.learned) == ((0,), (2,))
    write_rows(tmp_path / "again.jsonl", [row])
    (again,) = read_sft_rows(tmp_path / "again.jsonl")
    assert (again.without_loss, again.completion) == (row.without_loss, row.completion)


def test_preferences_with_and_without_a_prompt(tmp_path):
    other = {"role": "assistant", "content": "b"}
    rows = read_preference_rows(
        written(
            tmp_path,
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"prompt": [Q], "chosen": [A], "rejected": [other], "weight": 0.5},
            {"chosen": [Q, A], "rejected": [Q, other]},
            {"chosen": [Q, A, Q, A], "rejected": [Q, A, Q, other]},
        )
    )
    assert [row.prompt for row in rows] == [(user("q"),)] * 3 + [(user("q"), assistant("a"), user("q"))]
    assert {row.chosen for row in rows} == {(assistant("a"),)}
    assert {row.rejected for row in rows} == {(assistant("b"),)}
    assert [row.weight for row in rows] == [1.0, 0.5, 1.0, 1.0]


def test_steps_from_solutions(tmp_path):
    rows = read_step_rows(
        written(tmp_path, {"question": "q", "solution": "1. one\n2. two\n3. three", "id": "t7"}, {"question": "q", "steps": ["x", "y"]})
    )
    assert [(row.target, row.number, row.task_id == "t7") for row in rows] == [("1. one", 1, True), ("2. two", 2, True), ("x", 1, False)]
    assert rows[0].prompt == (user("q"),)
    assert rows[1].prompt == (user("q\n\nThe solution so far:\n1. one"),)
    write_rows(tmp_path / "again.jsonl", rows)
    assert [row.model_copy(update={"source": None}) for row in read_step_rows(tmp_path / "again.jsonl")] == [
        row.model_copy(update={"source": None}) for row in rows
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "completion": ""}, ":1: field `completion`: it is empty"),
        ({"prompt": "q"}, ":1: a row must hold `prompt` and `completion`"),
        ({"text": "q a"}, "does not say which part of it is learned"),
        ({"prompt": "q", "complation": "a"}, "Did you mean `completion`"),
        ({"prompt": [Q], "completion": [A], "tool": []}, "field `tool`: unknown column. Did you mean `tools`"),
        ({"messages": []}, ":1: field `messages`: a list of messages is needed"),
        ({"messages": [Q]}, "must begin with what the assistant says, and there is none"),
        ({"messages": [A, Q]}, "no question before the assistant"),
        ({"messages": [Q, {"role": "function", "content": "x"}]}, "field `messages.1.role`: the role must be system, user"),
        ({"messages": [Q, A, A]}, "messages 2 and 3 are both the assistant's"),
        ({"messages": [Q, A, {"role": "system", "content": "s"}]}, "a system message must stand first, and message 3 is one"),
        ({"messages": [Q, {"role": "tool", "content": "x"}, A]}, "must follow the assistant's call"),
        ({"messages": [Q, {**Q, "tool_calls": [{"name": "f"}]}]}, "only the assistant calls tools"),
        ({"messages": [Q, {"role": "assistant", "tool_calls": [{"name": 3}]}]}, "field `messages.1.tool_calls.0`: a tool call must be"),
        ({"messages": [Q, {"role": "assistant", "tool_calls": "[{"}]}, "not valid JSON"),
        ({"messages": [Q, {"role": "assistant", "content": 3}]}, "field `messages.1.content"),
        ({"messages": [Q, A], "tools": {"name": "f"}}, "field `tools`: a list of tools is needed"),
        ({"prompt": [Q], "completion": [Q]}, "it begins with the user"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": 2}, "must be in (0, 1]"),
        ({"chosen": "q a", "rejected": "q b"}, "give it as `prompt`"),
        ({"question": "q", "solution": "only one step"}, "two steps or more"),
        ({"question": "q", "steps": ["a", 3]}, "a list of texts"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path, row, words):
    message = refused(tmp_path, row)
    assert words in message
    assert message.startswith(":1")


def test_what_is_wrong_with_a_result_of_another_call(tmp_path):
    said = {"role": "assistant", "tool_calls": [{"id": "c1", "name": "f", "arguments": {}}]}
    row = {"messages": [Q, said, {"role": "tool", "content": "x", "tool_call_id": "c9"}, A]}
    assert "answers the call 'c9'; open before it: c1" in refused(tmp_path, row)


def test_what_is_wrong_with_a_file(tmp_path):
    assert "there are no rows in it" in refused(tmp_path)
    assert ":2: this row is one of kind dpo" in refused(
        tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": "q", "chosen": "a", "rejected": "b"}
    )
    path = written(tmp_path, {"prompt": "q", "completion": "a"})
    with pytest.raises(InputError, match="preferences are needed, and this file holds demonstrations"):
        read_preference_rows(path)
    path.write_text('{"prompt": "q", "completion": "a"}\n{"prompt": \n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not valid JSON"):
        read_rows(path)
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "absent.jsonl")


def test_json_arrays_and_tables(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}], indent=1))
    assert [row.source for row in read_rows(path)] == [f"{path}:1", f"{path}:2"]
    table = tmp_path / "rows.csv"
    cells = json.dumps([Q]).replace('"', '""')
    table.write_text(f'prompt,completion\nq,a\n"{cells}",b\n')
    assert [row.prompt for row in read_rows(table)] == [(user("q"),), (user("q"),)]


def test_parquet_gives_no_argument_that_was_never_there(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="extra `datasets` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra `datasets` is not installed")

    def row(arguments):
        return {"messages": [Q, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}]}

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row({"a": 1}), row({"b": 2})]), path)
    calls = [read.completion[0].tool_calls[0].parsed() for read in read_sft_rows(path)]
    assert calls == [{"a": 1}, {"b": 2}]
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="no Parquet file"):
        read_rows(path)


ROWS = [
    SFTRow(prompt=(user("q"),), completion=(assistant("caf\u00e9"),)),
    SFTRow(
        prompt=(Message(role="system", content="s"), user("q")),
        completion=(
            assistant("hm", call(), call('{"x": "y"}', "call_2", "send")),
            *(Message(role="tool", content="r", tool_call_id="call_1"), Message(role="tool", content="t", tool_call_id="call_2")),
            assistant("done"),
        ),
        tools=(FIND,),
    ),
]


def test_what_is_written_is_read_back(tmp_path):
    preferences = [PreferenceRow(prompt=(user("q"),), chosen=(assistant("a"),), rejected=(assistant("b"),), weight=0.5)]
    for rows in (ROWS, preferences):
        write_rows(tmp_path / "rows.jsonl", rows)
        assert [row.model_copy(update={"source": None}) for row in read_rows(tmp_path / "rows.jsonl")] == rows
    broken = SFTRow(prompt=(user("q"), assistant("", call("{broken"))), completion=(user("no"), assistant("a")), without_loss=())
    write_rows(tmp_path / "rows.jsonl", [broken])
    assert '"arguments": "{broken"' in (tmp_path / "rows.jsonl").read_text()


@pytest.mark.torch
def test_trl_reads_what_is_written(tmp_path):
    datasets = pytest.importorskip("datasets", reason="extra `datasets` is not installed")
    data_utils = pytest.importorskip("trl.data_utils", reason="extra `train` is not installed")
    from test_chat import QWEN
    from toy_weights import toy_tokenizer
    from tutelage.training.chat import render

    tokenizer = toy_tokenizer(QWEN)
    rows = [SFTRow(prompt=(user("q"),), completion=(assistant("a"),), tools=(FIND,)), ROWS[1]]
    write_rows(tmp_path / "rows.jsonl", rows)
    loaded = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    for example, row in zip(loaded, rows, strict=True):
        assert data_utils.is_conversational(example)
        tools = json.loads(example.pop("tools"))
        theirs = data_utils.apply_chat_template(example, tokenizer, tools=tools)
        assert theirs["prompt"] + theirs["completion"] == render(tokenizer, row).text


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 1: a\nb\n\nStep 2: c", ["Step 1: a\nb", "Step 2: c"]),
        ("We begin.\n**Step 1:** a\n**Step 2:** b\nSo 5.", ["We begin.\n**Step 1:** a", "**Step 2:** b\nSo 5."]),
        ("### Step 1\na\n### Step 2\nb", ["### Step 1\na", "### Step 2\nb"]),
        ("## 1. a\n## 2. b", ["## 1. a", "## 2. b"]),
        ("1. a\n   - x\n2) b\n3. c", ["1. a\n   - x", "2) b", "3. c"]),
        ("Step 1: list\n1. x\n2. y\nStep 2: z", ["Step 1: list\n1. x\n2. y", "Step 2: z"]),
        ("1. a\n1. nested\n2. nested too\n3. c", ["1. a\n1. nested", "2. nested too", "3. c"]),
        ("a\n\nb\nc", ["a", "b", "c"]),
        ("1. only one\nb", ["1. only one", "b"]),
        ("a\n```\n1. x\n2. y\n```\nb", ["a\n```\n1. x\n2. y\n```", "b"]),
        ("<think>1. no\n2. no</think>1. a\n2. b", ["1. a", "2. b"]),
        ("2 + 2 = 4\n4 * 2 = 8", ["2 + 2 = 4", "4 * 2 = 8"]),
        ("", []),
    ],
)
def test_splitting_a_solution(text, steps):
    assert split_steps(text) == steps


def test_the_last_step_is_learned_only_where_it_is_asked_for():
    prompt = (Message(role="system", content="s"), user("q"))
    assert [row.target for row in step_rows(prompt, ["a", "b", "c"], "t")] == ["a", "b"]
    rows = step_rows(prompt, ["a", "b", "c"], "t", last=True, source="x:1")
    assert rows[2] == StepRow(prompt=(prompt[0], user("q\n\nThe solution so far:\na\nb")), target="c", task_id="t", number=3, source="x:1")
    assert step_rows(prompt, ["a"], "t") == []
