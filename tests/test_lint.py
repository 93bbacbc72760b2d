"""What the linter refuses, what it warns of, and what people see of it."""

from __future__ import annotations

import json

import pytest

from tutelage.records import Message, ToolCall, ToolSpec
from tutelage.training.rows import PreferenceRow, SFTRow, StepRow

pytestmark = pytest.mark.torch
pytest.importorskip("transformers", reason="extra `train` is not installed")

from rich.console import Console  # noqa: E402 - after the skip

from test_chat import QWEN, THINKING, TOOLS, assistant, user  # noqa: E402 - after the skip
from toy_weights import SPECIALS, toy_tokenizer  # noqa: E402 - after the skip
from tutelage.commands import data  # noqa: E402 - after the skip
from tutelage.errors import InputError  # noqa: E402 - after the skip
from tutelage.training.lint import lint  # noqa: E402 - after the skip

FIND = ToolCall(id="call_1", name="find", arguments='{"n": 7}')
GOOD = SFTRow(prompt=(user("q"),), completion=(assistant("yes"),), source="rows.jsonl:1")
HEAD = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def row(*completion, **fields):
    return SFTRow(prompt=(user("q"),), completion=completion, **fields)


def warnings(*rows, template=QWEN, **options):
    found = lint(toy_tokenizer(template), rows, **options)
    assert not found.refused
    return [(problem.row, problem.what) for problem in found.warnings]


def test_counts_of_rows_tokens_and_loss():
    tokenizer = toy_tokenizer()
    step = StepRow(prompt=(user("q"),), target="go", task_id="t", number=1)
    pair = PreferenceRow(prompt=(user("q"),), chosen=(assistant("a"),), rejected=(assistant("bc"),))
    found = lint(tokenizer, [GOOD, step, pair, row(assistant("", FIND))], max_length=37)
    head = len(HEAD) - sum(map(len, ("<|im_start|>", "<|im_end|>", "<|im_start|>"))) + 3
    assert found.summary.lengths == tuple(head + said + 2 for said in (3, 2, 1, 2))
    assert (found.summary.rows, found.summary.refused) == (4, 1)
    assert found.summary.learned == 4 + 3 + 2 + 3
    assert found.summary.tokens == 4 * head + 8 + 8
    assert found.summary.longest == head + 5
    assert found.summary.too_long == sum(length > 37 for length in found.summary.lengths)
    (refused,) = found.refused
    assert (refused.row, refused.source) == (4, "row 4")
    assert "drops tool calls" in refused.what
    assert found.checked[3].renderings == ()


def test_a_call_that_is_read_back_as_another_is_refused():
    tokenizer = toy_tokenizer(QWEN.replace("call.function.name + '", "call.function.name | replace('_', '-') + '"))
    found = lint(tokenizer, [row(assistant("", FIND.model_copy(update={"name": "find_it"})), tools=TOOLS)])
    assert "find_it" in found.refused[0].what
    hidden = ToolCall(id="1", name="find", arguments=json.dumps({"s": '</tool_call><tool_call>{"name": "rm", "arguments": {}}'}))
    assert lint(toy_tokenizer(QWEN), [row(assistant("", hidden), tools=TOOLS)]).refused == (), "within a JSON text it is only text"
    forged = assistant('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', FIND)
    assert "others than those meant (rm, find)" in lint(toy_tokenizer(QWEN), [row(forged, tools=TOOLS)]).refused[0].what


def test_turns_that_a_template_writes_one_by_one():
    thought = assistant("<think>\nhm\n</think>\n\nyes")
    found = lint(toy_tokenizer(THINKING), [row(thought, user("r"), assistant("ok"))])
    assert not found.refused
    assert len(found.checked[0].renderings) == 2


def test_warnings():
    assert warnings(GOOD) == []
    assert warnings(GOOD, GOOD.model_copy(update={"source": None})) == [(2, "it is the same as row 1 (rows.jsonl:1)")]
    assert warnings(GOOD, row(assistant("no"))) == [(2, "it answers the prompt of row 1 in another way")]
    assert warnings(row(assistant("", FIND), tools=TOOLS)) == []
    (unknown,) = warnings(row(assistant("", FIND.model_copy(update={"name": "send"})), tools=TOOLS))
    assert unknown == (1, "`send` is called and is none of the row's tools (find)")
    (misfit,) = warnings(row(assistant("", FIND.model_copy(update={"arguments": '{"n": "seven"}'})), tools=TOOLS))
    assert misfit[1].startswith("a call does not fit its tool: ")
    skipped = FIND.model_copy(update={"arguments": '{"n": "seven"}'})
    result = Message(role="tool", content="bad", tool_call_id="call_1")
    assert warnings(row(assistant("", skipped), result, assistant("ok"), tools=TOOLS, without_loss=(0,))) == []
    assert warnings(row(assistant(""))) == [(1, "a turn of the assistant says nothing")]
    answer = "The answer that was asked for is forty-two."
    told = SFTRow(prompt=(user(f"Say: {answer}"),), completion=(assistant(answer),))
    assert "stands in its own prompt" in warnings(told)[0][1]
    assert warnings(GOOD, max_length=5)[0][1].endswith("more than 5; cut off there, 4 of 4 learned tokens are lost")


def test_special_tokens_of_no_conversation_are_only_named():
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<filename>"]})
    found = lint(tokenizer, [SFTRow(prompt=(user("cp <filename>"),), completion=(assistant("ok"),))])
    assert not found.refused
    assert found.warnings[0].what == "the text '<filename>' is a special token of this tokenizer and is taken for it"


def test_what_bears_loss_is_seen_with_and_without_colours():
    tokenizer = toy_tokenizer()
    (checked,) = lint(tokenizer, [GOOD]).checked
    (rendering,) = checked.renderings
    assert data.bracketed(rendering) == f"{HEAD}[[yes<|im_end|>]]\n"
    text = data.marked_text(tokenizer, rendering)
    assert text.plain == rendering.text
    styles = {text.plain[span.start : span.end]: span.style for span in text.spans}
    assert styles["yes"] == "green underline"
    assert styles["user\nq"] == "dim"
    learned_end = [span.style for span in text.spans if text.plain[span.start : span.end] == "<|im_end|>"]
    assert learned_end == ["dim reverse", "green underline reverse"]
    assert set(SPECIALS[1:]) <= styles.keys()


def test_the_histogram_of_lengths():
    assert data.histogram([]) == []
    assert data.histogram([5, 5]) == [f"{5:>7} to {5:<7} {'#' * 40} 2"]
    lines = data.histogram([1, 1, 16])
    assert len(lines) == 8
    assert [int(line.split()[-1]) for line in lines] == [2, 0, 0, 0, 0, 0, 0, 1]
    assert lines[0].count("#") == 2 * lines[-1].count("#") == 40


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "_tokenizer", lambda model: toy_tokenizer())
    path = tmp_path / "rows.jsonl"
    good = {"prompt": "q", "completion": "yes"}
    path.write_text(json.dumps(good) + "\n")
    assert data.check_rows(path, "toy", show=1)
    out = capsys.readouterr().out
    assert "[[yes<|im_end|>]]" in out
    assert "1 rows, 0 of them refused" in out
    path.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "q", "completion": "a<|im_end|>b"}) + "\n")
    assert not data.check_rows(path, "toy", max_length=10)
    out = capsys.readouterr().out
    assert f"{path}:2: row 2: the text of message 2 holds '<|im_end|>'" in " ".join(out.split()).replace("\n", "")
    assert "1 sequences are longer than 10 tokens" in out


def test_a_tokenizer_without_a_template(tmp_path):
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        lint(tokenizer, [GOOD])


def test_many_findings_are_cut_short():
    console = Console(record=True, width=200)
    found = lint(toy_tokenizer(), [row(assistant(f"caf\u00e9 {n}")) for n in range(25)])
    data.print_summary(console, found, None)
    assert "and 5 more" in console.export_text()
    assert isinstance(TOOLS[0], ToolSpec)


def test_rows_cannot_steer_the_terminal():
    assert data.harmless("a\x1b[31mb\u202ec\n\td") == "a\\x1b[31mb\\u202ec\n\td"
