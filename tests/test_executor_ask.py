"""The executor asks by itself where the model is unsure of its draft."""

from __future__ import annotations

import math

import pytest

import tutelage as tt
from tutelage.advice import ReferenceAdvisor
from tutelage.errors import InputError, ModelFailed
from tutelage.executor import AgileExecutor, AskWhen, confidence_of
from tutelage.experience.conversations import segment_turns
from tutelage.experience.store import to_json
from tutelage.knowledge import Exemplar, Knowledge
from tutelage.models import scripted
from tutelage.records import Completion, Episode, Message, StopReason, TokenTrace, ToolCall, Usage

TASK = tt.Task(messages=(Message(role="user", content="Can the lamp Norvik hang in the bathroom?"),), reference="yes")
EXPERT = ReferenceAdvisor([TASK])
NO_LIMITS = tt.Limits()
ADVICE = "seek_advice: yes\nGive your answer once more, with this in mind."


def said(text: str, probability: float | None) -> Completion:
    """A reply of two tokens, one certain and one of this probability squared: its confidence is the probability."""
    logprobs = None if probability is None else (0.0, 2 * math.log(probability))
    tokens = None if logprobs is None else TokenTrace(prompt_ids=(1,), completion_ids=(2, 3), logprobs=logprobs)
    return Completion(message=Message(role="assistant", content=text), tokens=tokens)


def agent(
    script, ask_when: AskWhen, *, native_tools: bool = False, knowledge: Knowledge = Knowledge(), limits=NO_LIMITS, **settings
) -> tt.Agent:
    model = script if isinstance(script, tt.Scripted) else tt.Scripted(script, native_tools=native_tools)
    settings = {"actions": ("predict_answer", "submit_answer"), **settings}
    return tt.Agent(model=model, knowledge=knowledge, limits=limits, executor=AgileExecutor(ask_when=ask_when, **settings))


async def run(script, ask_when: AskWhen, *, advisor=EXPERT, **options) -> Episode:
    return await tt.run_episode(agent(script, ask_when, **options), TASK, advisor=advisor)


async def test_below_the_threshold_an_untrained_model_profits():
    """A model that answers in plain words and has never heard of asking."""
    when = AskWhen(signal="probability", threshold=0.6)
    episode = await run([said("no", 0.5), said("yes", 0.2)], when, actions=(), unparsed="answer")
    assert (episode.answer, episode.stop, len(episode.advice)) == ("yes", StopReason.ANSWERED, 1)
    assert confidence_of(episode) == pytest.approx(0.5), "of the draft, before the advice"
    first, last = episode.steps
    assert [seen.text for seen in first.observations] == [ADVICE]
    assert last.observations == ()
    sure = await run([said("no", 0.7)], when, actions=(), unparsed="answer")
    assert (sure.answer, sure.advice) == ("no", ())
    assert confidence_of(sure) == pytest.approx(0.7)


async def test_thresholds_can_be_tried_on_what_is_stored():
    for threshold, asked in [(0.0, 0), (0.5, 0), (0.51, 1), (2.0, 1)]:
        script = [said("predict_answer no", 0.5), said("predict_answer yes", 0.9), said("submit_answer", 1.0)]
        episode = await run(script, AskWhen(signal="probability", threshold=threshold))
        stored = Episode.model_validate_json(to_json(episode))
        assert confidence_of(stored) == pytest.approx(0.5), "measured whether it asks or not"
        assert len(stored.advice) == asked


async def test_the_draft_is_looked_at_once_a_session():
    script = [
        said("predict_answer no", 0.5),
        said("predict_answer maybe", 0.1),
        said("predict_answer yes", 0.1),
        said("submit_answer", 0.1),
    ]
    episode = await run(script, AskWhen(signal="probability", threshold=0.6))
    assert [step.observations[0].text.split(":")[0] for step in episode.steps] == [
        "seek_advice", "predict_answer", "predict_answer", "submit_answer",
    ]  # fmt: skip
    assert confidence_of(episode) == pytest.approx(0.5)
    (segment,) = episode.segments
    assert segment_turns(segment).messages[1].text == ADVICE


async def test_a_model_that_asked_by_itself_is_not_measured():
    script = [said("seek_advice", 0.1), said("submit_answer yes", 0.1)]
    episode = await run(script, AskWhen(signal="probability", threshold=2.0), actions=("seek_advice", "submit_answer"))
    assert (confidence_of(episode), len(episode.advice)) == (None, 1)


async def test_tools_may_be_used_before_the_draft():
    class Shop:
        def reset(self, task):
            return None

        def sql(self, query: str) -> str:
            """Ask the database."""
            return "no rows"

    one = agent(
        [said("sql SELECT 1", 0.1), said("submit_answer no", 0.5), said("submit_answer yes", 1.0)],
        AskWhen(signal="probability", threshold=0.6),
    )
    episode = await tt.run_episode(one, TASK, advisor=ReferenceAdvisor([TASK]), environment=Shop)
    assert confidence_of(episode) == pytest.approx(0.5), "of the answer, not of a query"
    assert [step.observations[0].text for step in episode.steps] == ["sql: no rows", ADVICE, "submit_answer: The session has ended."]


async def test_tokens_are_asked_for_and_their_absence_is_said():
    script = tt.Scripted([said("submit_answer yes", 0.9)], native_tools=False)
    await run(script, AskWhen(signal="probability", threshold=0.1))
    assert script.requests[0].sampling.logprobs
    with pytest.raises(InputError, match=r"field `executor\.ask_when\.signal`.*does not say how probable.*`agreement` or `similarity`"):
        await run([said("submit_answer yes", None)], AskWhen(signal="probability", threshold=0.1))
    script = tt.Scripted(["submit_answer yes"], native_tools=False)
    await run(script, AskWhen(signal="similarity", threshold=0.0))
    assert not script.requests[0].sampling.logprobs


async def test_agreement_of_samples():
    replies = iter(
        ["submit_answer Yes", "submit_answer yes.", "submit_answer no", "hm", "submit_answer  YES", "submit_answer no", "submit_answer yes"]
    )
    script = tt.Scripted(lambda messages, tools, sampling: next(replies), native_tools=False)
    episode = await run(script, AskWhen(signal="agreement", threshold=0.7, samples=5))
    assert confidence_of(episode) == pytest.approx(2 / 5), "two of five say yes too; one says nothing that can be read"
    assert (episode.answer, len(episode.advice)) == ("yes", 1)
    drawn = [request.sampling for request in script.requests]
    assert [sampling.temperature for sampling in drawn] == [0.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.0]
    assert len({sampling.seed for sampling in drawn[1:6]}) == 5
    assert all(request.messages == script.requests[0].messages for request in script.requests[:6])
    assert len(list(episode.steps)) == 2, "samples are no steps"
    assert episode.usage.calls == 7, "and they are paid for"


async def test_a_sample_that_fails_leaves_the_session_ungraded():
    replies = iter(["submit_answer yes", *["submit_answer yes"] * 2, ModelFailed("busy"), "submit_answer yes", "submit_answer yes"])
    episode = await run(lambda messages, tools, sampling: next(replies), AskWhen(signal="agreement", threshold=0.5))
    assert (episode.stop, episode.error) == (StopReason.MODEL_ERROR, "busy")
    assert isinstance(episode.usage, Usage)


async def test_similarity_of_the_nearest_entry_that_may_be_seen():
    def entry(of: tt.Task) -> Exemplar:
        answer = Message(role="assistant", content="yes")
        return Exemplar(task_id=of.id, input_id=of.input_id, text=of.text, messages=(*of.messages, answer))

    near = tt.Task(messages=(Message(role="user", content="Can the lamp Halo hang in the bathroom?"),))
    when = AskWhen(signal="similarity", threshold=0.5)
    script = ["submit_answer no", "submit_answer yes"]
    episode = await run(script, when, knowledge=Knowledge(exemplars=(entry(TASK), entry(near))))
    assert confidence_of(episode) == pytest.approx(6 / 8), "six of eight words are shared; its own entry does not count"
    assert (episode.answer, episode.advice) == ("no", ())
    episode = await run(script, when, knowledge=Knowledge(exemplars=(entry(TASK),)))
    assert confidence_of(episode) == 0.0, "nothing known is no confidence, which is not the same as not measured"
    assert (episode.answer, len(episode.advice)) == ("yes", 1)


@pytest.mark.parametrize("native", [True, False])
async def test_in_the_form_of_tool_calls(native):
    def answer(text: str, number: int):
        call = ToolCall(id=f"c{number}", name="submit_answer", arguments=f'{{"answer": "{text}"}}')
        return call if native else tt.tool_protocol.render_call(call)

    script = tt.Scripted([answer("no", 1), answer("yes", 2)], native_tools=native)
    episode = await run(script, AskWhen(signal="similarity", threshold=0.5), form="tools")
    assert (episode.answer, len(episode.advice)) == ("yes", 1)
    (segment,) = episode.segments
    assert script.requests[1].messages == (*segment.context, *segment_turns(segment).messages[:-1])
    assert script.requests[1].messages[-1].text == (ADVICE if native else f"<tool_response>{ADVICE}</tool_response>")


async def test_where_nobody_answers_the_draft_is_taken():
    when = AskWhen(signal="similarity", threshold=0.5)
    episode = await run(["submit_answer no"], when, advisor=None)
    assert (episode.answer, episode.advice, confidence_of(episode)) == ("no", (), 0.0)
    episode = await run(["submit_answer no"], when, advice_first=3, place=3)
    assert (episode.answer, episode.advice) == ("no", ())


async def test_nothing_is_asked_that_no_turn_is_left_for():
    when = AskWhen(signal="similarity", threshold=0.5)
    episode = await run(["submit_answer no"], when, limits=tt.Limits(steps=1))
    assert (episode.stop, episode.answer, episode.advice) == (StopReason.ANSWERED, "no", ())


async def test_a_session_without_a_draft_is_not_measured():
    when = AskWhen(signal="similarity", threshold=0.5)
    assert confidence_of(await run(["hm", "hm"], when, limits=tt.Limits(steps=2))) is None
    assert (await run([scripted.empty()], when, actions=(), unparsed="answer")).confidence is None
    assert (await run(["submit_answer", "predict_answer yes", "submit_answer"], when)).confidence == 0.0
