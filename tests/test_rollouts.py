"""Experiences as samples: which tokens bear loss, what is left out, how the loop's settings, order and rewards are read."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutelage as tt
from tutelage.budget import Cost
from tutelage.errors import GraderError, InputError, MissingExtra
from tutelage.grader import as_grader
from tutelage.graders.combine import grade_episode
from tutelage.learners.policy_batch import choose_engine
from tutelage.learners.policy_report import facts_of, note_of, refuse_ungraded, why_fruitless
from tutelage.learners.policy_settings import n_validation, read_policy_settings
from tutelage.learners.policy_state import Deck, Evaluation, State, split_tasks
from tutelage.learners.policy_weights import Weights
from tutelage.learners.rewards import GradedToolCall, make_reward
from tutelage.learners.rollouts import LeftOut, Reading, read_experience, read_rollouts
from tutelage.learners.step_history import as_row, write_history
from tutelage.records import (
    Completion,
    Episode,
    Experience,
    Grade,
    Message,
    Observation,
    Segment,
    Step,
    StopReason,
    TokenTrace,
    ToolFailure,
)
from tutelage.training.base import Base

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def turn(prompt, said, logprobs=None) -> Step:
    """A step whose tokens are the characters of two texts."""
    trace = TokenTrace(
        prompt_ids=tuple(map(ord, prompt)),
        completion_ids=tuple(map(ord, said)),
        logprobs=tuple(logprobs or [-0.5] * len(said)),
    )
    return Step(completion=Completion(message=Message(role="assistant", content=said), tokens=trace))


def silent() -> Step:
    return Step(completion=Completion(message=Message(role="assistant", content="hello")))


def experience(*segments, score=1.0, task="t", attempt=0, stop=StopReason.ANSWERED, **grade) -> Experience:
    parts = tuple(Segment(context=(), steps=tuple(steps)) for steps in segments)
    episode = Episode(task_id=task, agent_version="v", segments=parts, answer="a", stop=stop, attempt=attempt)
    return Experience(episode=episode, grade=Grade(score=score, **grade), when=WHEN)


def marked(sample) -> str:
    """The sample as text, with what bears loss in brackets."""
    text = "".join(f"[{chr(id_)}]" if said else chr(id_) for id_, said in zip(sample.ids, sample.action, strict=True))
    return text.replace("][", "")


# -- which tokens bear loss


def test_an_episode_with_two_tool_calls_is_one_sample_whose_observations_bear_no_loss():
    first = turn("<sys><user>2+2*3<bot>", "mul(2,3)$")
    second = turn("<sys><user>2+2*3<bot>mul(2,3)$<obs>6<bot>", "add(2,6)$")
    third = turn("<sys><user>2+2*3<bot>mul(2,3)$<obs>6<bot>add(2,6)$<obs>8<bot>", "8$")
    (sample,) = read_experience(experience([first, second, third], score=0.25))
    assert marked(sample) == "<sys><user>2+2*3<bot>[mul(2,3)$]<obs>6<bot>[add(2,6)$]<obs>8<bot>[8$]"
    assert (sample.reward, sample.group, sample.episode, sample.sampled_logprobs) == (0.25, "t", "v/t/0/0", None)


def test_a_history_that_the_template_wrote_otherwise_begins_a_new_sample_of_the_same_return():
    first = turn("<user>q<bot>", "<think>hm</think>call$")
    second = turn("<user>q<bot>call$<obs>6<bot>", "say 6$")  # the template dropped the thought
    third = turn("<user>q<bot>call$<obs>6<bot>say 6$<obs>!<bot>", "bye$")
    samples = read_experience(experience([first, second, third], score=0.5))
    assert [marked(sample) for sample in samples] == [
        "<user>q<bot>[<think>hm</think>call$]",
        "<user>q<bot>call$<obs>6<bot>[say 6$]<obs>!<bot>[bye$]",
    ]
    assert {(sample.reward, sample.episode) for sample in samples} == {(0.5, "v/t/0/0")}


def test_a_prompt_that_only_begins_like_the_one_before_is_no_continuation():
    samples = read_experience(experience([turn("ab", "cd"), turn("abc", "e")]))
    assert [marked(sample) for sample in samples] == ["ab[cd]", "abc[e]"]


def test_a_context_that_was_cleared_begins_a_new_sample():
    samples = read_experience(experience([turn("ab", "c")], [turn("abc", "d")]))
    assert [marked(sample) for sample in samples] == ["ab[c]", "abc[d]"]


def test_logprobs_stand_with_the_tokens_that_were_sampled():
    steps = [turn("p", "ab", [-1.0, -2.0]), turn("pabq", "c", [-3.0])]
    (sample,) = read_experience(experience(steps), Reading(logprobs=True))
    assert [None if math.isnan(value) else value for value in sample.sampled_logprobs] == [None, -1.0, -2.0, None, -3.0]


@given(st.lists(st.tuples(st.text("xyz", min_size=1, max_size=4), st.text("abc", max_size=4)), min_size=1, max_size=6), st.data())
def test_every_sampled_token_bears_loss_once_and_nothing_else_does(turns, data):
    history, steps = "", []
    for read, said in turns:
        if data.draw(st.booleans()):
            history = "?"
        history += read
        steps.append(turn(history, said))
        history += said
    if not any(said for _, said in turns):
        assert read_experience(experience(steps)) is LeftOut.NO_TOKENS
        return
    samples = read_experience(experience(steps))
    learned = [chr(id_) for sample in samples for id_, said in zip(sample.ids, sample.action, strict=True) if said]
    assert "".join(learned) == "".join(said for _, said in turns)


# -- what is left out


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (experience([turn("p", "a")], score=None), LeftOut.UNGRADED),
        (experience([turn("p", "a")], score=None, stop=StopReason.MODEL_ERROR), LeftOut.MODEL_ERROR),
        (experience([turn("p", "a")], score=0.4, abstained=True), LeftOut.ABSTAINED),
        (experience([turn("p", "a"), silent()]), LeftOut.NO_TOKENS),
        (experience([silent()]), LeftOut.NO_TOKENS),
        (experience([]), LeftOut.NO_TOKENS),
        (experience([turn("p", "")]), LeftOut.NO_TOKENS),
        (experience([turn("ppppp", "aaaa")]), LeftOut.TOO_LONG),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_and_never_a_failure(one, why):
    good = experience([turn("p", "b")], score=0.5, attempt=1)
    found = read_rollouts([one, good], Reading(max_length=8))
    assert dict(found.left_out) == {why: 1}
    assert [group.rewards for group in found.groups] == [(0.5,)]


def test_a_task_without_any_usable_episode_has_no_group():
    found = read_rollouts([experience([turn("p", "a")], score=None, words="grader failed: it broke")])
    assert (found.groups, found.words) == ((), "grader failed: it broke")
    assert found.reward_mean is found.reward_std is found.tokens_per_episode is None


def test_too_long_is_cut_only_where_it_says_so():
    (sample,) = read_experience(experience([turn("ppppp", "aaaa")]), Reading(max_length=8, truncate=True))
    assert marked(sample) == "ppppp[aaa]"


@pytest.mark.parametrize("stop", [reason for reason in StopReason if reason is not StopReason.MODEL_ERROR])
def test_an_episode_that_was_cut_off_is_learned_from_unless_it_is_muted(stop):
    one = experience([turn("p", "a")], stop=stop)
    (kept,) = read_experience(one)
    (muted,) = read_experience(one, Reading(mask_truncated=True))
    assert kept.n_actions == 1
    assert muted.n_actions == (1 if stop.finished else 0)
    assert muted.reward == kept.reward


async def test_a_reward_that_is_no_number_names_the_task():
    task = tt.Task(messages=(Message(role="user", content="q"),), source="train.jsonl:7")
    episode = experience([turn("p", "a")], task=task.id).episode
    grade = await grade_episode(as_grader(lambda task, episode: float("nan")), task, episode)
    with pytest.raises(InputError, match=r"the reward of the task from train\.jsonl:7 is nan"):
        read_rollouts([Experience(episode=episode, grade=grade, when=WHEN)], names={task.id: task.source})


def test_groups_keep_the_order_of_tasks_and_say_what_they_hold():
    found = read_rollouts(
        [
            experience([turn("p", "ab")], task="b", score=1.0),
            experience([turn("p", "a"), turn("pax", "bc")], task="b", score=0.0, attempt=1, stop=StopReason.STEPS),
            experience([turn("p", "a")], task="a", score=0.0),
        ]
    )
    assert [(group.task_id, group.rewards, group.tokens, group.truncated) for group in found.groups] == [
        ("b", (1.0, 0.0), (2, 3), 1),
        ("a", (0.0,), (1,), 0),
    ]
    assert (found.reward_mean, found.tokens_per_episode, found.truncated) == (pytest.approx(1 / 3), 2.0, 1)
    assert [group.informative(1e-6) for group in found.groups] == [True, False]
    assert not found.groups[0].informative(0.5)  # the standard deviation is .5 and must be above


# -- the order of tasks


def tasks(count: int) -> list[tt.Task]:
    return [tt.Task(messages=(Message(role="user", content=f"q{n}"),), source=f"t:{n}") for n in range(count)]


def test_every_epoch_has_every_task_once_in_another_order():
    deck = Deck(tasks(7), seed=3)
    drawn, orders = 0, []
    for _ in range(3):
        order, drawn = deck.draw(drawn, 7, set())
        orders.append([task.source for task in order])
    assert [sorted(order) for order in orders] == [sorted(f"t:{n}" for n in range(7))] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == [task.source for task in Deck(tasks(7), seed=3).draw(0, 7, set())[0]]
    assert orders[0] != [task.source for task in Deck(tasks(7), seed=4).draw(0, 7, set())[0]]


@given(st.integers(1, 6), st.integers(0, 30), st.integers(1, 8), st.sets(st.integers(0, 5)))
def test_a_step_never_has_a_task_twice(size, place, count, without):
    held = tasks(size)
    seen = {held[number].id for number in without if number < size}
    found, after = Deck(held, seed=0).draw(place, count, seen)
    ids = [task.id for task in found]
    assert len(set(ids)) == len(ids) == min(count, size - len(seen))
    assert not seen & set(ids)
    assert after >= place + len(ids)


def test_the_same_task_given_twice_counts_once():
    assert len(Deck([*tasks(2), *tasks(2)], seed=0).tasks) == 2


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 3))
def test_held_out_tasks_are_apart_and_one_is_left_to_train_on(count, held_out, seed):
    all_tasks = tasks(count)
    train, held = split_tasks(all_tasks, held_out, seed)
    assert len(held) == min(held_out, count - 1)
    assert sorted([*train, *held], key=all_tasks.index) == all_tasks
    assert split_tasks(all_tasks, held_out, seed) == (train, held)


def test_tasks_that_ask_the_same_stay_on_one_side():
    twins = [tt.Task(messages=(Message(role="user", content=f"q{n // 2}"),), reference=n) for n in range(20)]
    train, held = split_tasks(twins, 4, seed=1)
    assert {task.input_id for task in train} & {task.input_id for task in held} == set()
    assert len(held) == 8


# -- settings


def test_settings_are_given_side_by_side_and_come_to_their_groups():
    found = read_policy_settings({"steps": 5, "epsilon_high": 0.3, "learning_rate": 1e-3, "lora": {"r": 4}}, "rlvr")
    assert (found.loop.steps, found.policy.epsilon_high, found.train.learning_rate, found.train.lora.r) == (5, 0.3, 1e-3, 4)
    assert found.train.lr_scheduler_type == "constant"
    assert json.dumps(found.described())
    assert "save_steps" not in found.described()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step": 5}, "`step` is not a setting of rlvr. Did you mean `steps`"),
        ({"steps": 0}, "field `steps`"),
        ({"validation": 1.0}, "field `validation`"),
        ({"learning_rate": -1}, "field `learning_rate`"),
        ({"epsilon": "x"}, "field `epsilon`"),
        ({"num_generations": 1}, "needs 2 or more"),
        ({"algorithm": "ppo", "num_generations": 1, "dynamic_sampling": True}, "needs 2 or more"),
        ({"rollout": "vllm"}, "field `rollout`"),
    ],
)
def test_a_wrong_setting_is_named(given, words):
    with pytest.raises(InputError) as caught:
        read_policy_settings(given, "rlvr")
    assert words in str(caught.value)


def test_dynamic_sampling_belongs_to_grpo_unless_it_is_asked_for():
    assert read_policy_settings({}, "x").dynamic
    assert not read_policy_settings({"algorithm": "ppo", "num_generations": 1}, "x").dynamic
    assert read_policy_settings({"algorithm": "ppo", "dynamic_sampling": True}, "x").dynamic


def test_a_tenth_is_held_out_where_that_is_enough_to_choose_by():
    loop = read_policy_settings({}, "x").loop
    assert [n_validation(loop, n) for n in (1, 74, 80, 300)] == [0, 0, 8, 30]
    asked = read_policy_settings({"validation": 0.2}, "x").loop
    assert [n_validation(asked, n) for n in (1, 2, 10, 300)] == [0, 1, 2, 60]
    assert n_validation(read_policy_settings({"validation": 0}, "x").loop, 300) == 0


def test_the_forecast_is_an_upper_bound():
    given = {"steps": 10, "tasks_per_step": 4, "num_generations": 2, "max_rounds": 3, "validation": 0.2, "eval_steps": 5}
    assert read_policy_settings(given, "x").forecast_episodes(100) == 10 * 4 * 3 * 2 + 20 * 3  # evaluated after 0, 5 and 10 steps
    assert read_policy_settings({**given, "validation": 0}, "x").forecast_episodes(5) == 10 * 5 * 2  # no more than all tasks in a step
    assert read_policy_settings({**given, "dynamic_sampling": False}, "x").forecast_episodes(100) == 10 * 4 * 2 + 20 * 3


# -- the state


def evaluation(step, score) -> Evaluation:
    return Evaluation(step=step, score=score, tokens=3.0, adapter=f"a{step}")


def test_of_equal_scores_the_later_is_best_and_only_a_better_one_ends_the_waiting():
    state = State()
    seen = []
    for step, score in enumerate([0.5, 0.5, 0.4, 0.5, 0.6, 0.1]):
        state = state.evaluated(evaluation(step, score))
        seen.append((state.best.step, state.waited))
    assert seen == [(0, 0), (1, 1), (1, 2), (3, 3), (4, 0), (4, 1)]
    assert state.model_copy(update={"adapter": "now"}).needed == {"a4", "now"}


def test_a_state_survives_json():
    state = State(step=2, history=(as_row({"kl": math.nan, "loss": 1.5}, {"left_out": {"ungraded": 1}}),)).evaluated(evaluation(2, 0.5))
    assert state.history[0] == {"kl": None, "loss": 1.5, "left_out": {"ungraded": 1}}
    assert State.model_validate(json.loads(json.dumps(state.model_dump(mode="json")))) == state


def test_the_history_of_two_runs_is_in_one_file_and_written_anew_each_time(tmp_path):
    write_history(tmp_path, "one", "srl", [{"step": 1}])
    write_history(tmp_path, "two", "rlvr", [{"step": 1}])
    write_history(tmp_path, "one", "srl", [{"step": 1}, {"step": 2}])
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(row["run"], row["by"], row["step"]) for row in rows] == [("two", "rlvr", 1), ("one", "srl", 1), ("one", "srl", 2)]


def test_the_cost_between_two_points():
    earlier, later = Cost(calls=2, tokens_in=10, tokens_out=5, usd=0.5), Cost(calls=5, tokens_in=30, tokens_out=6, usd=0.75)
    assert later.minus(earlier) == Cost(calls=3, tokens_in=20, tokens_out=1, usd=0.25)
    assert later.model_copy(update={"usd": None}).minus(earlier).usd is None


# -- in words


ROW = {"reward": 0.5, "groups": 4, "dropped": 1, "kl": 0.01, "entropy": 1.5, "seconds_rollout": 2.0, "seconds_update": 1.0}


def test_a_step_in_words():
    assert note_of(ROW) == "reward 0.50, 25% dropped, kl 0.010, entropy 1.500, 3 s"
    assert note_of({"reward": None, "groups": 0}) == "reward 0.00, 0 s"


def test_facts_of_a_run():
    rows = tuple(
        {**ROW, "reward": reward, "tokens_per_answer": 9.0, "episodes": 8, "left_out": {"ungraded": 1}} for reward in (0.1, 0.9, 0.8)
    )
    state = State(step=3, updates=3, history=rows, stopped="enough").evaluated(evaluation(0, 0.2)).evaluated(evaluation(3, 0.7))
    facts = facts_of(state, 20, 5)
    assert (facts["reward_first"], facts["reward_last"], facts["reward_best"]) == (0.1, 0.8, 0.9)
    assert (facts["dropped_groups"], facts["episodes"], facts["left_out"], facts["stopped"]) == (0.25, 24, {"ungraded": 3}, "enough")
    assert (facts["best_step"], facts["validation_scores"], facts["adapter"]) == (3, [[0, 0.2], [3, 0.7]], "a3")
    assert json.dumps(facts)


def test_why_why_fruitless():
    same = {"reward_min": 0.0, "reward_max": 0.0, "episodes": 16}
    assert "the grader gives 0.00 to all 48 episodes of the last 3 steps" in why_fruitless([same] * 3)
    assert "one and the same grade (0.00 to 1.00; 32 episodes in 2 steps)" in why_fruitless([same, {**same, "reward_max": 1.0}])


def test_why_nothing_is_usable():
    rows = [{"reward_min": None, "episodes": 0, "left_out": {"too_long": 7, "abstained": 1}}] * 2
    said = why_fruitless(rows)
    assert "none of the last 16 episodes can be learned from: 14 because they have more tokens than `max_length`" in said
    assert "2 because the grader abstained" in said


def test_a_step_without_any_grade_is_refused():
    ungraded = [experience([turn("p", "a")], score=None, words="grader failed: KeyError")] * 2
    too_long = experience([turn("ppp", "a")])
    with pytest.raises(GraderError, match=r"2 of 3 episodes of a step are not graded.*The first says: grader failed: KeyError"):
        refuse_ungraded(read_rollouts([*ungraded, too_long], Reading(max_length=3)))
    refuse_ungraded(read_rollouts([*ungraded, experience([turn("p", "a")])]))  # one is left
    refuse_ungraded(read_rollouts([ungraded[0], too_long], Reading(max_length=3)))  # not the grader's fault alone


# -- which engine samples


def base(tmp_path, gguf=None) -> Base:
    return Base("toy", tmp_path, "b", "t", "c", gguf)


class Named(tt.Scripted):
    """A scripted double under another name."""

    def __init__(self, name: str) -> None:
        super().__init__("x", native_tools=False)
        self.name = name


@pytest.mark.parametrize(
    ("name", "rollout", "on_gpu", "found"),
    [
        ("gguf:x.gguf@1", "auto", False, (None, "gguf")),
        ("gguf:x.gguf@1", "gguf", True, (None, "gguf")),
        ("gguf:x.gguf@1", "auto", True, ("hf:/w/x.gguf", "hf")),
        ("gguf:x.gguf@1", "hf", False, ("hf:/w/x.gguf", "hf")),
        ("hf:x@1", "auto", True, (None, "hf")),
        ("hf:x@1", "gguf", True, ("gguf:/w/x.gguf", "gguf")),
    ],
)
def test_the_engine_that_samples(tmp_path, name, rollout, on_gpu, found):
    model = Named(name)
    chosen, kind = choose_engine(model, base(tmp_path, "/w/x.gguf"), rollout, on_gpu=on_gpu)
    assert (None if chosen is model else chosen, kind) == found


def test_an_engine_that_cannot_sample_is_refused(tmp_path):
    with pytest.raises(InputError, match="did not come from a GGUF file"):
        choose_engine(Named("hf:folder@1"), base(tmp_path), "gguf")
    model = tt.Scripted("x", native_tools=True)
    with pytest.raises(InputError, match="takes tools itself"):
        choose_engine(model, base(tmp_path, "/w/x.gguf"), "gguf")


# -- the graded tool-call reward


def calling(*calls, answer=None, failures=()) -> Episode:
    made = tuple(tt.ToolCall(id=str(number), name=name, arguments=arguments) for number, (name, arguments) in enumerate(calls))
    seen = tuple(Observation(text="no", call_id=str(number), failure=ToolFailure.BAD_ARGUMENTS) for number in failures)
    step = Step(completion=Completion(message=Message(role="assistant", content="")), calls=made, observations=seen)
    segments = (Segment(context=(), steps=(step,)),)
    return Episode(task_id="t", agent_version="v", segments=segments, answer=answer, stop=StopReason.TOOL_CALL)


def wanting(*calls) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content="q"),), reference={"calls": list(calls)})


BOOK = {"name": "book", "arguments": {"city": "New York", "nights": 3, "extras": ["bed", "tea"], "who": {"name": "Ann", "age": 40}}}
RIGHT = '{"city": "new york", "nights": 3, "extras": ["tea", "bed"], "who": {"name": "ann", "age": 40}}'


@pytest.mark.parametrize(
    ("episode", "reward"),
    [
        (calling(("book", RIGHT)), 1.0),
        (calling(), -1.0),
        (calling(("book", "{city")), -1.0),
        (calling(("book", "[1]")), -1.0),
        (calling(("books", RIGHT)), 0.1),  # a name that only contains the right one
        (calling(("book", RIGHT), failures=[0]), 0.3),
        (calling(("book", RIGHT), ("book", RIGHT)), 0.9),
        (calling(("book", "{}")), 0.3),
        (calling(("book", RIGHT.replace("3,", "3.001,"))), 1.0),
        (calling(("book", RIGHT.replace("3,", "4,"))), 0.3 + 0.7 * 3 / 4),
        (calling(("book", RIGHT.replace('["tea", "bed"]', '["tea", "gin", "bed"]'))), 0.3 + 0.7 * (3 + 2 / 3) / 4),
        (calling(("book", RIGHT.replace('"age": 40', '"age": 41'))), 0.3 + 0.7 * 3.5 / 4),
        (calling(("book", RIGHT.replace("{", '{"more": 1, ', 1))), 0.3 + 0.7 * 4 / 5),
        (calling(("book", RIGHT.replace("3,", "true,"))), 0.3 + 0.7 * 3 / 4),
        (calling(*[("x", "{}")] * 30), -1.0),
    ],
)
async def test_the_graded_tool_call_reward_by_hand(episode, reward):
    task = wanting(BOOK)
    GradedToolCall().check(task)
    assert (await GradedToolCall().grade(task, episode)).score == pytest.approx(reward)


async def test_no_call_expected():
    assert (await GradedToolCall().grade(wanting(), calling(answer="hello"))).score == 1.0
    assert (await GradedToolCall().grade(wanting(), calling())).score == -1.0
    assert (await GradedToolCall().grade(wanting(), calling(("book", RIGHT), answer="hello"))).score == -1.0


async def test_calls_in_another_order_and_allowed_values():
    task = wanting({"name": "a", "arguments": {"x": 1}, "allowed": {"x": [1, 2]}}, {"name": "b", "arguments": {}, "optional": ["y"]})
    assert (await GradedToolCall().grade(task, calling(("b", "{}"), ("a", '{"x": 2}')))).score == 1.0
    assert (await GradedToolCall().grade(task, calling(("b", '{"y": 5}')))).score == pytest.approx(0.5)


def test_a_reward_has_a_name_of_its_own():
    assert make_reward("graded_tool_call").name == "graded_tool_call"
    names = {make_reward(spec).name for spec in ("toolcall", {"toolcall": {"partial": True}}, {"toolcall": {"partial": False}})}
    assert len(names) == 3
    assert "toolcall" not in names  # the study's own grades are kept under that name
    with pytest.raises(InputError, match="toolcall"):
        make_reward("toolcal")


# -- without torch


async def test_without_torch_the_way_to_install_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tutelage.training.trainer", None)
    settings = read_policy_settings({}, "rlvr")
    with pytest.raises(MissingExtra, match=r"learning with weights needs the package .*tutelage\[train\]"):
        Weights.open(base(tmp_path), tt.Agent(model=tt.Scripted("x")), settings, tmp_path, "run", 0, {})
