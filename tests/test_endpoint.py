"""The endpoint model against a scripted server on loopback: the wire format, retries, refusals, bad replies."""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from fake_server import FakeServer, Reset, Status, chat, fails, says, unused_url
from tutelage.errors import InputError, ModelFailed, ModelUnavailable
from tutelage.model import Model, load_model
from tutelage.models import retry
from tutelage.models.endpoint import Endpoint
from tutelage.prices import Price
from tutelage.records import ImagePart, Message, Sampling, TextPart, TokenTrace, ToolCall, ToolSpec, Usage

KEY = "sk-very-secret-123"
ASK = [Message(role="user", content="What is 2 + 2?")]
ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Endpoint, "first_wait", 0.01)


def model_at(server: FakeServer, **options: Any) -> Endpoint:
    return Endpoint("small", base_url=server.url, **{"api_key": KEY, "retries": 2, "timeout": 5.0, **options})


async def ask(server: FakeServer, sampling: Sampling | None = None, **options: Any):
    return await model_at(server, **options).complete(ASK, sampling=sampling or Sampling())


async def test_a_plain_reply():
    with FakeServer([says("four")]) as server:
        completion = await ask(server, price=Price(input=1.0, output=10.0, reused=0.5))
    assert completion.message == Message(role="assistant", content="four")
    assert completion.finish == "stop"
    assert completion.usage == Usage(calls=1, tokens_in=10, tokens_out=2, tokens_reused=4)
    assert completion.cost_usd == pytest.approx((6 * 1.0 + 4 * 0.5 + 2 * 10.0) / 1e6)
    assert completion.tokens is None
    assert 0 < completion.seconds < 5
    assert isinstance(model_at(server), Model)
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_only_what_was_asked_for_is_sent():
    with FakeServer([says("four")]) as server:
        await ask(server)
    body = server.requests[0]
    assert body.pop("messages") == [{"role": "user", "content": "What is 2 + 2?"}]
    assert body == {"model": "small", "temperature": 0.0, "max_tokens": 512}


async def test_every_setting_of_sampling_is_sent():
    sampling = Sampling(temperature=0.7, top_p=0.9, min_p=0.05, max_tokens=7, seed=3, stop=("\n",), json_schema={"type": "object"})
    with FakeServer([says("{}")]) as server:
        await ask(server, sampling, extra={"top_k": 5, "temperature": None})
    body = server.requests[0]
    assert {key: body[key] for key in ("top_p", "min_p", "max_tokens", "seed", "stop", "top_k")} == {
        "top_p": 0.9,
        "min_p": 0.05,
        "max_tokens": 7,
        "seed": 3,
        "stop": ["\n"],
        "top_k": 5,
    }
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "temperature" not in body  # taken out by extra


async def test_tools_calls_results_and_images_in_a_conversation(tmp_path: Path):
    picture = tmp_path / "dot.png"
    picture.write_bytes(b"\x89PNG fake")
    broken = ToolCall(id="2", name="add", arguments='{"a": ')
    conversation = [
        Message(role="system", content="Add."),
        Message(role="user", content=(TextPart(text="see"), ImagePart(url=str(picture)), ImagePart(url="https://x.test/a.jpg"))),
        Message(role="assistant", tool_calls=(ToolCall(id="1", name="add", arguments='{"a": 2}'), broken)),
        Message(role="tool", content="4", tool_call_id="1"),
    ]
    with FakeServer([says("four")]) as server:
        await model_at(server).complete(conversation, tools=[ADD])
    _, user, assistant, result = server.requests[0]["messages"]
    data = base64.b64encode(b"\x89PNG fake").decode()
    assert [part.get("image_url", {}).get("url") for part in user["content"]] == [
        None,
        f"data:image/png;base64,{data}",
        "https://x.test/a.jpg",
    ]
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == ['{"a": 2}', '{"unreadable": "{\\"a\\": "}']
    assert result == {"role": "tool", "content": "4", "tool_call_id": "1"}
    assert server.requests[0]["tools"][0]["function"]["parameters"] == ADD.parameters


async def test_an_image_that_is_not_there_is_named():
    with FakeServer([says("")]) as server, pytest.raises(InputError, match=r"gone\.png: the image cannot be read"):
        await model_at(server).complete([Message(role="user", content=(ImagePart(url="gone.png"),))])


async def test_tool_calls_of_the_reply_are_read_and_broken_arguments_kept_raw():
    calls = [
        {"id": "a", "function": {"name": "add", "arguments": '{"a": 2}'}},
        {"function": {"name": "add", "arguments": '{"a": 2'}},
        {"id": "c", "function": {"name": "add", "arguments": {"a": 3}}},
        {"id": "d", "function": {"name": "add", "arguments": None}},
        "nonsense",
    ]
    with FakeServer([chat({"content": None, "tool_calls": calls}, finish="stop")]) as server:
        completion = await ask(server)
    assert completion.message.text == ""
    assert [(call.id, call.arguments) for call in completion.message.tool_calls] == [
        ("a", '{"a": 2}'),
        ("call_1", '{"a": 2'),
        ("c", '{"a": 3}'),
        ("d", "{}"),
    ]
    assert completion.finish == "tool_calls"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]}, "four"),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": "half \ud83d emoji"}, "half ? emoji"),
    ],
)
async def test_odd_contents_become_text(message: dict[str, Any], text: str):
    with FakeServer([chat(message)]) as server:
        assert (await ask(server)).message.text == text


@pytest.mark.parametrize("usage", [None, "many", {"prompt_tokens": "x", "prompt_tokens_details": [1]}])
async def test_odd_usage_is_not_a_crash(usage: Any):
    with FakeServer([says("four", usage=usage)]) as server:
        completion = await ask(server, price=Price(input=1.0, output=1.0))
    assert completion.usage == Usage(calls=1)
    assert completion.cost_usd == (0.0 if isinstance(usage, dict) else None)  # unknown usage: unknown cost


async def test_finish_length():
    with FakeServer([says("fo", finish="length")]) as server:
        assert (await ask(server)).finish == "length"


@pytest.mark.parametrize(
    "bad",
    [Reset(), fails(500), fails(503), fails(429), fails(408), fails(409), Status(200, {}, "<html>"), Status(200, {}, {"choices": []})],
)
async def test_what_may_pass_is_tried_again(bad: Any):
    with FakeServer([bad, bad, says("four")]) as server:
        assert (await ask(server)).message.text == "four"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Reset(), "the connection broke.*after 3 attempts"),
        (fails(500, "boom"), "status 500: boom, after 3 attempts"),
        (fails(429, "slow down"), "status 429: slow down, after 3 attempts"),
        (Status(200, {}, "<html>" + "x" * 10_000), "not JSON: '<html>x+\\.\\.\\.', after 3 attempts"),
        (Status(200, {}, "[" * 50_000), "not JSON"),
        (Status(200, {}, "[]"), "not a JSON object"),
        (Status(200, {}, {"choices": []}), "no choices, after 3"),
        (Status(200, {}, {"choices": [{"message": None}]}), "no choices"),
        (Status(200, {}, {"error": {"message": "upstream died"}}), "no choices: upstream died"),
    ],
)
async def test_exhausted_retries_fail_the_call_with_the_last_cause(bad: Any, words: str):
    with FakeServer([bad]) as server, pytest.raises(ModelFailed, match=words):
        await ask(server)
    assert len(server.requests) == 3


async def test_no_answer_in_time_is_tried_again_and_then_fails():
    with FakeServer([says("late", delay=0.5), says("four")]) as server:
        assert (await ask(server, timeout=0.2)).message.text == "four"
    with FakeServer([says("late", delay=0.5)]) as server, pytest.raises(ModelFailed, match=r"no answer within 0\.1 s, after 2 attempts"):
        await ask(server, timeout=0.1, retries=1)


async def test_a_bad_request_fails_at_once_with_the_servers_words():
    with FakeServer([fails(400, "maximum context length is 4096")]) as server, pytest.raises(ModelFailed, match="maximum context length"):
        await ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (fails(401, f"wrong key {KEY}"), "status 401: wrong key \\*\\*\\*; check OPENAI_API_KEY"),
        (fails(403), "status 403"),
        (fails(404, "no model `small`"), "status 404: no model `small`; check the model's name and the address"),
        (fails(429, "no money", code="insufficient_quota"), "status 429: no money"),
    ],
)
async def test_refusals_stop_the_run_at_once_and_never_print_the_key(bad: Any, words: str):
    with FakeServer([bad]) as server, pytest.raises(ModelUnavailable, match=words) as raised:
        await ask(server)
    assert len(server.requests) == 1
    assert server.url in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("url", [unused_url(), "http://no-such-host.invalid/v1"], ids=["closed port", "no such host"])
async def test_nobody_there_on_the_first_call_is_said_at_once(url: str):
    begun = time.perf_counter()
    with pytest.raises(ModelUnavailable, match=f"{url}: no connection.*OPENAI_BASE_URL"):
        await Endpoint("small", base_url=url, retries=50).complete(ASK)
    assert time.perf_counter() - begun < 5


async def test_a_server_that_goes_away_later_is_retried_and_then_unavailable():
    with FakeServer([Status(200, {"connection": "close"}, says("four").body)]) as server:
        model = model_at(server)
        await model.complete(ASK)
    with pytest.raises(ModelUnavailable, match=r"no connection.*after 3 attempts"):
        await model.complete(ASK)


async def test_retry_after_is_honoured():
    waits = {"retry_after": "0.3"}, {"retry_after_ms": "300"}
    for headers in waits:
        with FakeServer([fails(429, **headers), says("four")]) as server:
            begun = time.perf_counter()
            await ask(server)
            assert 0.3 <= time.perf_counter() - begun < 2


async def test_a_very_long_retry_after_is_capped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Endpoint, "longest_wait", 0.05)
    with FakeServer([fails(429, retry_after="3600"), says("four")]) as server:
        assert (await asyncio.wait_for(ask(server), 5)).message.text == "four"


def test_what_the_server_asked_for_is_read():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry.asked_seconds({"retry-after": soon}) == pytest.approx(30, abs=2)
    assert retry.asked_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry.asked_seconds({"retry-after": "7"}) == 7.0
    assert retry.asked_seconds({"retry-after-ms": "1500", "retry-after": "7"}) == 1.5
    assert [retry.asked_seconds({"retry-after": text}) for text in ("", "soon", "-3", "nan", "inf")] == [None] * 5
    assert retry.asked_seconds({}) is None


def test_backoff_doubles_within_its_jitter_and_is_capped():
    for attempt, full in [(1, 0.5), (2, 1.0), (4, 4.0), (20, 60.0), (5000, 60.0)]:
        waits = [retry.wait_seconds(attempt, None) for _ in range(50)]
        assert all(full / 2 <= wait <= full for wait in waits)
        assert len(set(waits)) > 1
    assert all(7.0 <= retry.wait_seconds(1, 7.0) <= 7.7 for _ in range(50))
    assert 60.0 <= retry.wait_seconds(1, 1e9) <= 66.0


async def test_token_ids_are_given_only_where_the_server_gives_them():
    ids = {"prompt_token_ids": [5, 6, 7]}
    choice = {
        "message": {"content": "hi"},
        "token_ids": [8, 9],
        "logprobs": {"content": [{"token": "h", "logprob": -0.5}, {"token": "i", "logprob": -1}]},
    }
    asked = Sampling(logprobs=True)
    with FakeServer([says("", choices=[choice], **ids)]) as server:
        assert (await ask(server, asked)).tokens == TokenTrace(prompt_ids=(5, 6, 7), completion_ids=(8, 9), logprobs=(-0.5, -1.0))
        assert (await ask(server)).tokens is None  # nobody asked
    assert (server.requests[0]["logprobs"], server.requests[0]["return_token_ids"]) == (True, True)
    assert "return_token_ids" not in server.requests[1]
    for lost in [{**choice, "token_ids": None}, {**choice, "token_ids": [8]}, {**choice, "logprobs": None}]:
        with FakeServer([says("", choices=[lost], **ids)]) as server:
            assert (await ask(server, asked)).tokens is None
    with FakeServer([says("", choices=[choice])]) as server:
        assert (await ask(server, asked)).tokens is None


async def test_no_more_requests_at_once_than_allowed():
    with FakeServer([says("x", delay=0.05)]) as server:
        model = model_at(server, concurrency=3)
        await asyncio.gather(*(model.complete(ASK) for _ in range(12)))
        assert server.busiest == 3


async def test_a_cancelled_call_frees_its_place():
    answers = iter([says("late", delay=5.0)])
    with FakeServer(lambda body: next(answers, says("four"))) as server:
        model = model_at(server, concurrency=1)
        task = asyncio.create_task(model.complete(ASK))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await asyncio.wait_for(model.complete(ASK), 3)).message.text == "four"


def test_one_model_works_in_several_event_loops():
    with FakeServer([says("four")]) as server:
        model = model_at(server)
        assert [asyncio.run(model.complete(ASK)).message.text for _ in range(3)] == ["four"] * 3
        assert len(model._connections) == 1  # those of loops that are over were dropped


async def test_without_a_key_openai_itself_is_not_asked_and_another_server_is(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ModelUnavailable, match="no key; set OPENAI_API_KEY"):
        await Endpoint("gpt-4o-mini").complete(ASK)
    with FakeServer([says("four")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert (await Endpoint("small").complete(ASK)).message.text == "four"
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
        await Endpoint("small").complete(ASK)
    assert server.headers[1]["authorization"] == f"Bearer {KEY}"


async def test_a_key_with_strange_letters_is_refused_and_not_shown():
    with pytest.raises(ModelUnavailable, match="no key has") as raised:
        await Endpoint("small", base_url=unused_url(), api_key="sk-“quoted”").complete(ASK)
    assert "quoted" not in str(raised.value)


def test_the_name_holds_what_changes_behaviour_and_loads_again():
    assert Endpoint("gpt-4o-mini").name == "endpoint:gpt-4o-mini"
    local = Endpoint("org/m:free", base_url="http://user:pass@localhost:8000/v1/", native_tools=False, extra={"top_k": 5}, timeout=3)
    assert local.name.startswith("endpoint:org/m:free?base_url=http://localhost:8000/v1&native_tools=false&extra=")
    again = load_model(local.name)
    assert isinstance(again, Endpoint)
    assert (again.name, again.extra, again.native_tools) == (local.name, {"top_k": 5}, False)


def test_prices_come_from_the_table_or_are_unknown():
    assert Endpoint("gpt-4o-mini").price == Price(input=0.15, output=0.60, reused=0.075)
    assert Endpoint("nobody-knows").price is None
    assert Endpoint.from_name("nobody-knows", {"price": "0.1,0.2"}).price == Price(input=0.1, output=0.2)


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        ("", {}, "write endpoint:MODEL"),
        ("m", {"url": "x"}, "no option `url`; its options are base_url, price, timeout"),
        ("m", {"base_url": "localhost:8000"}, "no address of a server"),
        ("m", {"timeout": "long"}, "timeout=long"),
        ("m", {"retries": "-1"}, "retries=-1"),
        ("m", {"concurrency": "0"}, "at least 1"),
        ("m", {"price": "cheap"}, "two numbers"),
        ("m", {"extra": "[1]"}, "a JSON object"),
    ],
)
def test_bad_names_are_refused(which: str, options: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        Endpoint.from_name(which, options)


async def test_a_megabyte_is_a_reply_too():
    with FakeServer([says("x" * 1_000_000)]) as server:
        assert len((await ask(server)).message.text) == 1_000_000
