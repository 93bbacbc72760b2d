"""Reading actions leniently: every spelling that models use, no text that raises or takes long."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.executor import ACTIONS, parse_action
from tutelage.executor.parse import LONGEST, resolve_name
from tutelage.records import ToolSpec
from tutelage.tool import tool


def sql(query: str) -> str:
    """Ask the database.

    Args:
        query: A SELECT statement.
    """
    return query


def move(steps: int, direction: str = "north", fast: bool = False) -> str:
    """Walk."""
    return f"{steps} {direction} {fast}"


SPECS: tuple[ToolSpec, ...] = (*(item.spec for item in ACTIONS.values()), tool(sql).spec, tool(move).spec)


def read(text: str, specs=SPECS) -> tuple[str, dict] | None:
    call = parse_action(text, specs)
    return call and (call.name, json.loads(call.arguments))


@pytest.mark.parametrize(
    "text",
    [
        "seek_advice",
        "[SeekAdvice]",
        "[seek advice]",
        "SeekAdvice()",
        "seek-advice.",
        "SEEK_ADVICE",
        "**seek_advice**",
        "`seek_advice`",
        "- seek_advice",
        "2. seek_advice:",
        "Action: seek_advice",
        "<seek_advice></seek_advice>",
        "I do not know this shop's rule, so I will use [SeekAdvice].",
        "I should call seek_advice() now.",
        "The memory says nothing.\nseek_advice\nseek_advice: yes\nsubmit_answer yes",
        '{"name": "seek_advice", "arguments": {}}',
        '<tool_call>{"name": "SeekAdvice"}</tool_call>',
        "seek",
        "[Seek]",
    ],
)
def test_one_action_in_many_spellings(text):
    assert read(text) == ("seek_advice", {})


@pytest.mark.parametrize(
    "text",
    [
        "Predict: yes",
        "predict_answer yes",
        "PredictAnswer: yes",
        "[PredictAnswer] yes",
        "[predict_answer yes]",
        "[Predict: yes]",
        'predict_answer("yes")',
        "predict_answer(answer='yes')",
        "predict_answer(answer=yes)",
        'predict_answer = "yes"',
        'predict_answer {"answer": "yes"}',
        "predict yes",
        "`predict_answer yes`",
        '"predict_answer yes"',
        "**Predict:** yes",
        "<predict_answer>yes</predict_answer>",
        "predict_answer\nyes",
        "Predict:\n\nyes\nand more",
        "predict_answer\nAction Input: yes",
        'The table says so.\n{"name": "predict_answer", "arguments": {"answer": "no"}}\npredict_answer yes',
    ],
)
def test_the_rest_of_the_line_is_the_first_argument(text):
    assert read(text) == ("predict_answer", {"answer": "yes"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "yes",
        "I think the answer is yes.",
        "Answer: yes",
        "The advice was good",
        "s",
        "[Unknown]",
        "foo(1)",
        "let me see\npredict yes",
    ],
)
def test_what_is_no_action(text):
    assert read(text) is None


def test_a_tool_is_an_action():
    query = "SELECT count(*), name FROM lamps WHERE name = 'a)' GROUP BY name"
    assert read(f"sql({query})") == ("sql", {"query": query})
    assert read(f'sql("{query}")') == ("sql", {"query": query})
    assert read(f"sql {query}") == ("sql", {"query": query})
    assert read(f"sql(query={query})") == ("sql", {"query": query})
    assert read(f"sql\n```sql\n{query}\n```") == ("sql", {"query": query})
    assert read("sql(SELECT a\nFROM b\nWHERE (c = 1))\nthen more") == ("sql", {"query": "SELECT a\nFROM b\nWHERE (c = 1)"})
    assert read("sql(SELECT a FROM b") == ("sql", {"query": "SELECT a FROM b"}), "a bracket that is never closed"
    assert read("[SQL: SELECT a[0] FROM b]") == ("sql", {"query": "SELECT a[0] FROM b"})
    assert read("seek_advice(What's its IP rating (roughly)?)") == ("seek_advice", {"question": "What's its IP rating (roughly)?"})


def test_several_arguments_and_their_types():
    assert read("move 3") == ("move", {"steps": 3})
    assert read("move(steps=3, direction='up, then left', fast=True)") == (
        "move",
        {"steps": 3, "direction": "up, then left", "fast": True},
    )
    assert read('move {"steps": 3, "fast": false}') == ("move", {"steps": 3, "fast": False})
    assert read("move three") == ("move", {"steps": "three"}), "the action itself says that three is no integer"
    assert read("clear_context and go on") == ("clear_context", {})
    assert read('reflect {"not": "arguments"}') == ("reflect", {"knowledge": '{"not": "arguments"}'})


def test_a_name_that_begins_several_actions_is_none_of_them():
    specs = [ACTIONS["seek_advice"].spec, ToolSpec(name="seek_help", parameters={"type": "object"})]
    assert read("seek", specs) is None
    assert read("seek_help", specs) == ("seek_help", {})
    assert resolve_name("Seek-Help", specs) == specs[1]
    assert resolve_name("reflection", SPECS).name == "reflect"
    assert resolve_name("", SPECS) is None
    assert parse_action("seek_advice", ()) is None


PIECES = "seek_advice [Predict ] ( ) sql( query= <reflect> <tool_call> move ** Action: </ , \" ' ` ``` { } : = \u3010 \x00 \ud83d"
FRAGMENTS = [*PIECES.split(" "), "\n", "1. ", "SELECT 'a", '{"name": "sql", "arguments": ']


@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=30).map("".join)))
@settings(max_examples=400, deadline=None)
def test_no_text_raises(text):
    call = parse_action(text, SPECS)
    if call is not None:
        assert call.name in {spec.name for spec in SPECS}
        call.name.encode()
        call.arguments.encode()


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="\"'`*=:{}()[]<>-"), min_size=1)
)
@settings(max_examples=200, deadline=None)
def test_what_is_written_plainly_is_read_back(answer):
    assert read(f"predict_answer {answer}") == ("predict_answer", {"answer": answer})


@pytest.mark.parametrize(
    "piece", ["[", "(", "sql(", "[sql", "a\n", "sql\n", " ", "```", "a(", "'", "predict ", "- ", "sql(query=", "{", "_"]
)
def test_long_texts_take_no_long_time(piece):
    begun = time.process_time()
    parse_action(piece * LONGEST, SPECS)
    assert time.process_time() - begun < 2
