"""Judges behind servers that give log probabilities by tokens' texts, as OpenAI's format has it, without ids."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fake_server import FakeServer, Status, fails, says
from tutelage.errors import GraderError, ModelUnavailable
from tutelage.graders.judge import Judge
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_confidence import LISTED, Source
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.models.endpoint import Endpoint
from tutelage.records import Completion, Message, Sampling, TokenChoice
from tutelage.tasks import Task


def told(text: str, likeliest: dict[str, float] | None, own: float = 0.5) -> Status:
    """One token with its probability, and beside it the likeliest of its place."""
    entry: dict[str, Any] = {"token": text, "logprob": math.log(own), "bytes": list(text.encode())}
    if likeliest is not None:
        entry["top_logprobs"] = [{"token": token, "logprob": math.log(share)} for token, share in likeliest.items()]
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length", "logprobs": {"content": [entry]}}
    return says("", choices=[choice])


def model(server: FakeServer, **options: Any) -> Endpoint:
    return Endpoint("small", base_url=server.url, api_key="k", retries=0, **options)


def judge(server: FakeServer, **options: Any) -> Judge:
    return Judge(model(server), "It is right.", **{"scale": 1, "confidence": "token", "explain": False, **options})


CASE = Case(question="How far is the moon?", answers=("384,400 km",))


async def test_the_probabilities_of_all_verdicts_come_from_one_call():
    listed = {"1": 0.5, " 1": 0.1, "0": 0.2, "Yes": 0.1, "No": 0.01}
    with FakeServer([told("1", listed)]) as server:
        opinion = await judge(server).opinion(CASE)
    assert opinion.mass == {"0": pytest.approx(0.2 / 0.8), "1": pytest.approx(0.6 / 0.8)}
    assert (opinion.verdict, opinion.confidence, opinion.sources) == ("1", pytest.approx(0.75), (Source.ALTERNATIVES,))
    (request,) = server.requests
    assert (request["logprobs"], request["top_logprobs"], request["max_tokens"]) == (True, LISTED, 1)
    assert "response_format" not in request


async def test_a_verdict_counts_though_another_token_was_sampled():
    with FakeServer([told("The", {"The": 0.9, "0": 0.06, "1": 0.02})]) as server:
        opinion = await judge(server).opinion(CASE)
    assert (opinion.verdict, opinion.confidence) == ("0", pytest.approx(0.75))


async def test_a_verdict_that_is_not_listed_counts_with_the_most_that_it_can_have():
    with FakeServer([told("1", {"1": 0.6, "Yes": 0.3})]) as server:  # 0 has at most .1, what is left
        assert (await judge(server).opinion(CASE)).mass == {"1": pytest.approx(0.6 / 0.7)}
    with FakeServer([told("4", {"4": 0.5, "3": 0.3, "Yes": 0.02})]) as server:  # 0, 1 and 2 have at most .02 each
        assert (await judge(server, scale=4).opinion(CASE)).mass == {"3": pytest.approx(0.3 / 0.86), "4": pytest.approx(0.5 / 0.86)}


async def test_a_server_that_lists_nothing_gives_the_sampled_tokens_probability():
    for listed in (None, {}):
        with FakeServer([told("1", listed, own=0.8)]) as server:
            opinion = await judge(server).opinion(CASE)
            assert (opinion.confidence, opinion.sources) == (pytest.approx(0.8), (Source.SAMPLED,))
            with pytest.raises(ModelUnavailable, match="lists no likely tokens"):
                await judge(server, alternatives=True).opinion(CASE)
    with FakeServer([told("1", {"1": 0.8, "0": 0.2}, own=0.8)]) as server:
        opinion = await judge(server, alternatives=False).opinion(CASE)
        assert opinion.sources == (Source.SAMPLED,)
        assert server.requests[0]["top_logprobs"] == 1


async def test_no_digit_is_asked_for_once_more_and_no_probabilities_stop_the_run():
    with FakeServer([told("The", {"The": 0.9, "A": 0.1}), told("1", {"1": 0.9, "0": 0.1})]) as server:
        assert (await judge(server).opinion(CASE)).confidence == pytest.approx(0.9)
        assert "one of the digits 0, 1" in server.requests[1]["messages"][-1]["content"]
    with FakeServer([told("The", {"The": 0.9})]) as server, pytest.raises(GraderError, match="began no reply with a digit"):
        await judge(server).opinion(CASE)
    with FakeServer([says("1")]) as server, pytest.raises(ModelUnavailable, match="gives no token probabilities"):
        await judge(server).opinion(CASE)
    with (
        FakeServer([fails(400, "logprobs is not supported with this model")]) as server,
        pytest.raises(GraderError, match="not supported with this model; if it gives no token probabilities, set `confidence: stated`"),
    ):
        await judge(server).opinion(CASE)


async def test_a_server_that_lists_less_is_asked_for_less():
    with FakeServer([told("1", {"1": 0.9, "0": 0.1})]) as server:
        few = Judge(model(server, extra={"top_logprobs": 5}), "It is right.", scale=1, confidence="token", explain=False)
        assert (await few.opinion(CASE)).confidence == pytest.approx(0.9)
        assert server.requests[0]["top_logprobs"] == 5


async def test_pairs_are_asked_in_both_orders():
    def answer(body: dict[str, Any]) -> Status:
        first = body["messages"][-1]["content"].index("384,400 km") < body["messages"][-1]["content"].index("a mile")
        return told("1", {"1": 0.7, "2": 0.2, "0": 0.1} if first else {"1": 0.4, "2": 0.5, "0": 0.1})

    with FakeServer(answer) as server:
        one = PairwiseJudge(model(server), "It is right.", confidence="token", explain=False)
        opinion = await one.opinion(Case(question="?", answers=("384,400 km", "a mile")))
    assert opinion.mass == {"a": pytest.approx(0.6), "b": pytest.approx(0.3), "tie": pytest.approx(0.1)}
    assert (opinion.verdict, len(server.requests)) == ("a", 2)


async def test_the_tokens_are_kept_by_their_text_only_where_they_are_asked_for():
    entries = [
        {
            "token": "4",
            "logprob": -0.5,
            "top_logprobs": [{"token": "4", "logprob": -0.5}, {"token": "\ud83d", "logprob": -2}, {"token": "x"}, 3],
        },
        {"token": "2", "logprob": float("-inf"), "top_logprobs": None},
    ]
    choice = {"message": {"content": "42"}, "logprobs": {"content": entries}}
    with FakeServer([says("", choices=[choice])]) as server:
        completion = await model(server).complete([Message(role="user", content="?")], sampling=Sampling(logprobs=True, top_logprobs=3))
        plain = await model(server).complete([Message(role="user", content="?")], sampling=Sampling(logprobs=True))
    assert completion.choices == (
        TokenChoice(text="4", logprob=-0.5, likeliest={"4": -0.5, "?": -2.0}),
        TokenChoice(text="2", logprob=-9999.0),
    )
    assert Completion.model_validate_json(completion.model_dump_json()) == completion
    assert (plain.choices, plain.tokens) == ((), None)
    assert "top_logprobs" not in server.requests[1]
    for nonsense in [None, [], "x", [3], [{"token": "4"}], [{"token": "4", "logprob": "-1"}], [{"token": "4", "logprob": float("nan")}]]:
        broken = {"message": {"content": "42"}, "logprobs": {"content": nonsense}}
        with FakeServer([says("", choices=[broken])]) as server:
            assert (await model(server).complete([], sampling=Sampling(logprobs=True, top_logprobs=3))).choices == ()


async def test_a_study_grades_by_such_a_server():
    with FakeServer([told("1", {"1": 0.9, "0": 0.1})]) as server:
        from test_judge import episode

        grade = await judge(server).grade(Task(messages=(Message(role="user", content="How far?"),)), episode("384,400 km"))
    assert (grade.score, grade.confidence) == (1.0, pytest.approx(0.9))
