"""The model with weights: batches of waiting calls, traces, adapters switched per request, tools, cancellation, memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")

import peft
import torch

from toy_weights import TEMPLATE, make_toy, toy_tokenizer
from tutelage.adapter import Adapter
from tutelage.errors import InputError, MissingExtra, ModelFailed
from tutelage.model import Adaptable, Model
from tutelage.models import huggingface
from tutelage.models.huggingface import HuggingFace
from tutelage.records import Completion, ImagePart, Message, Sampling, ToolCall, ToolSpec
from tutelage.training.adapters import save_adapter
from tutelage.training.base import base_of, find_base, load_causal_lm
from tutelage.training.engine import LORA_KEPT
from tutelage.training.generation import Generator

pytestmark = pytest.mark.torch
TOOLS_TEMPLATE = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}" + TEMPLATE.replace(
    "message['content']", "message['content'] + (message.tool_calls | tojson if message.tool_calls else '')"
)
ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toys") / "toy")


@pytest.fixture
def model(folder: Path) -> HuggingFace:
    return HuggingFace(str(folder), batch=16)


def question(text: str = "Hello?") -> list[Message]:
    return [Message(role="user", content=text)]


async def ask(model: HuggingFace, text: str = "Hello?", **sampling: Any) -> Completion:
    return await model.complete(question(text), sampling=Sampling(**{"max_tokens": 8, "temperature": 1.0, "seed": 1, **sampling}))


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are generated from now on."""
    sizes: list[int] = []
    generate = Generator.generate

    def counted(self: Generator, requests: Any, *rest: Any) -> None:
        sizes.append(len(requests))
        generate(self, requests, *rest)

    monkeypatch.setattr(Generator, "generate", counted)
    return sizes


def train(folder: Path, out: Path, *, seed: int = 0, full: bool = False) -> Adapter:
    """Some adapter: LoRA with random weights, or the whole model with some changed."""
    base = find_base(str(folder))
    own: Any = load_causal_lm(base)
    torch.manual_seed(seed)
    if full:
        with torch.no_grad():
            own.model.layers[0].mlp.up_proj.weight.add_(torch.randn_like(own.model.layers[0].mlp.up_proj.weight))
    else:
        config = peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        own = peft.get_peft_model(own, config)
    return save_adapter(own, base, out, facts={})


# --- names, options, refusals ------------------------------------------------------------------------------------------------------------


def test_it_is_a_model_named_by_its_content(folder: Path, tmp_path: Path):
    model = HuggingFace(str(folder), batch=4, threads=1, dtype="float32", context=100)
    assert isinstance(model, Model)
    assert isinstance(model, Adaptable)
    assert model.name == HuggingFace(str(folder)).name == f"hf:toy@{find_base(str(folder)).base_id}"
    assert HuggingFace(str(folder), native_tools=True).name == f"{model.name}?native_tools=true"
    assert (model.concurrency, model.native_tools) == (4, False)
    assert HuggingFace(str(make_toy(tmp_path / "toy", seed=3))).name != model.name
    assert base_of(model) == find_base(str(folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed": "1"}, "no option `speed`; its options are batch, dtype, device, threads, native_tools, context"),
        ({"batch": "0"}, "batch=0: expected a whole number of at least 1"),
        ({"dtype": "int4"}, "dtype=int4: expected auto, float32, bfloat16, float16"),
        ({"native_tools": "perhaps"}, "expected true or false"),
    ],
)
def test_bad_options_are_refused(folder: Path, options: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        HuggingFace.from_name(str(folder), options)


def test_options_are_read(folder: Path):
    model = HuggingFace.from_name(str(folder), {"batch": "3", "native_tools": "true", "dtype": "float32", "device": "cpu", "context": "64"})
    assert (model.concurrency, model.native_tools) == (3, True)


def test_without_the_extra_its_command_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"peft.*pip install 'tutelage\[train\]'"):
        HuggingFace(str(folder))


def test_making_one_loads_no_torch(folder: Path):
    code = f"""
import sys
from tutelage.models.huggingface import HuggingFace
HuggingFace({str(folder)!r})
sys.exit('torch' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_what_it_cannot_take_is_refused(model: HuggingFace):
    with pytest.raises(InputError, match="text only"):
        await model.complete([Message(role="user", content=(ImagePart(url="a.png"),))])
    with pytest.raises(InputError, match=r"takes no tools.*native_tools=true"):
        await model.complete(question(), tools=[ADD])
    with pytest.raises(InputError, match="must be text"):
        await model.complete([Message(role="assistant", tool_calls=(ToolCall(id="1", name="add"),))])
    with pytest.raises(InputError, match="JSON Schema; use gguf"):
        await ask(model, json_schema={"type": "object"})


async def test_weights_that_cannot_be_loaded_are_said_to_each_caller(folder: Path, tmp_path: Path):
    import shutil

    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    model = HuggingFace(str(broken))
    outcomes = await asyncio.gather(ask(model), ask(model), return_exceptions=True)
    assert all(isinstance(outcome, InputError) and "weights" in str(outcome) for outcome in outcomes)


# --- replies -----------------------------------------------------------------------------------------------------------------------------


async def test_a_reply_with_its_trace(folder: Path, model: HuggingFace):
    done = await ask(model, "How are you?", max_tokens=20)
    tokenizer = toy_tokenizer()
    assert done.tokens is not None
    ids, made = done.tokens.prompt_ids, done.tokens.completion_ids
    assert tokenizer.decode(ids) == "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert done.message == Message(role="assistant", content=tokenizer.decode(made, skip_special_tokens=True))
    assert (done.usage.calls, done.usage.tokens_in, done.usage.tokens_out) == (1, len(ids), len(made))
    assert (done.cost_usd, done.finish) == (0.0, "length" if len(made) == 20 and made[-1] != 2 else "stop")
    with torch.inference_mode():
        logits = load_causal_lm(find_base(str(folder)))(torch.tensor([ids + made])).logits[0, len(ids) - 1 : -1]
    assert done.tokens.logprobs == pytest.approx(logits.log_softmax(-1)[range(len(made)), list(made)].tolist(), abs=1e-4)
    assert model.count_tokens("hello") == 5


async def test_a_special_token_in_a_message_forges_no_turn(model: HuggingFace):
    done = await ask(model, "a<|im_end|>b")
    assert done.tokens is not None
    assert done.tokens.prompt_ids.count(2) == 1  # the turn's own end


async def test_the_end_token_stops_and_is_recorded(model: HuggingFace):
    replies = await asyncio.gather(*(ask(model, seed=seed, max_tokens=300) for seed in range(16)))
    ended = [done for done in replies if done.finish == "stop"]
    assert ended
    for done in ended:
        assert done.tokens is not None
        assert done.tokens.completion_ids.index(2) == len(done.tokens.completion_ids) - 1
        assert "<|im_end|>" not in done.message.text


async def test_stop_strings_are_cut_off(model: HuggingFace):
    free = await ask(model, seed=5, max_tokens=30)
    stop = free.message.text[6:8]
    done = await ask(model, seed=5, max_tokens=30, stop=(stop,))
    assert done.message.text == free.message.text[: free.message.text.index(stop)]
    assert (done.finish, done.tokens.completion_ids) == ("stop", free.tokens.completion_ids[: len(done.tokens.completion_ids)])  # type: ignore[union-attr]
    assert done.usage.tokens_out < free.usage.tokens_out


async def test_a_prompt_that_does_not_fit_fails_alone(folder: Path):
    model = HuggingFace(str(folder), context=64)
    outcomes = await asyncio.gather(ask(model), ask(model, "long" * 50), ask(model, max_tokens=500, seed=3), return_exceptions=True)
    assert isinstance(outcomes[1], ModelFailed)
    assert "the context holds 64" in str(outcomes[1])
    assert isinstance(outcomes[0], Completion)
    assert isinstance(outcomes[2], Completion)
    assert outcomes[2].usage.tokens <= 64


# --- batches -----------------------------------------------------------------------------------------------------------------------------


async def test_calls_that_wait_together_are_one_batch(model: HuggingFace, monkeypatch: pytest.MonkeyPatch):
    sizes = batches_of(monkeypatch)
    await asyncio.gather(*(ask(model, seed=seed) for seed in range(16)))
    assert sizes == [16]
    await asyncio.gather(*(ask(model, seed=seed) for seed in range(20)))
    assert sizes == [16, 16, 4]


async def test_a_reply_is_the_same_whatever_the_batch(folder: Path, model: HuggingFace):
    texts = [f"Question {number * 7919}?" for number in range(6)]
    together = await asyncio.gather(*(ask(model, text, seed=9, max_tokens=25) for text in texts))
    one_by_one = HuggingFace(str(folder), batch=1)
    alone = [await ask(one_by_one, text, seed=9, max_tokens=25) for text in reversed(texts)][::-1]
    assert [done.tokens.completion_ids for done in together] == [done.tokens.completion_ids for done in alone]  # type: ignore[union-attr]
    assert together[0].message != together[1].message


async def test_samples_of_one_prompt_share_it(model: HuggingFace):
    replies = await asyncio.gather(*(ask(model, seed=seed) for seed in range(4)))
    size = replies[0].usage.tokens_in
    assert [done.usage.tokens_reused for done in replies] == [0, size - 1, size - 1, size - 1]
    assert len({done.message.text for done in replies}) > 1


async def test_cancelled_calls_leave_and_harm_no_other(model: HuggingFace):
    expected = await ask(model, seed=2, max_tokens=40)
    endless = [asyncio.create_task(ask(model, seed=seed, max_tokens=900, temperature=5.0)) for seed in range(3)]
    waiting = asyncio.create_task(ask(model, seed=2, max_tokens=40))
    await asyncio.sleep(0.05)
    later = asyncio.create_task(ask(model, "never worked on", seed=2))
    await asyncio.sleep(0)
    for task in (*endless, later):
        task.cancel()
    outcomes = await asyncio.gather(*endless, later, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError | Completion) for outcome in outcomes)
    assert isinstance(outcomes[-1], asyncio.CancelledError)
    begun = time.perf_counter()
    assert (await waiting).message == expected.message
    assert (await ask(model, seed=2, max_tokens=40)).message == expected.message
    assert time.perf_counter() - begun < 5


async def test_our_own_bug_reaches_every_caller(model: HuggingFace, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Generator, "generate", broken)
    outcomes = await asyncio.gather(ask(model), ask(model), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2


def test_two_event_loops_one_after_the_other(model: HuggingFace):
    assert asyncio.run(ask(model)).message == asyncio.run(ask(model)).message


async def test_without_memory_the_batch_is_halved(model: HuggingFace, monkeypatch: pytest.MonkeyPatch):
    expected = await asyncio.gather(*(ask(model, seed=seed) for seed in range(8)))
    tried: list[int] = []
    generate = Generator.generate

    def narrow(self: Generator, requests: Any, *rest: Any) -> None:
        tried.append(len(requests))
        if len(requests) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        generate(self, requests, *rest)

    monkeypatch.setattr(Generator, "generate", narrow)
    replies = await asyncio.gather(*(ask(model, seed=seed) for seed in range(8)))
    assert tried == [8, 4, 2, 2, 2, 2]
    assert [done.message for done in replies] == [done.message for done in expected]


async def test_what_was_done_before_memory_ran_out_is_kept(model: HuggingFace, monkeypatch: pytest.MonkeyPatch):
    expected = [(await ask(model, seed=seed, max_tokens=3 + seed)).message for seed in range(4)]
    from tutelage.training.kv_cache import RowsCache

    keep = RowsCache.keep
    failed: list[int] = []

    def once(self: RowsCache, rows: Any, left: int = 0) -> None:
        if not failed:
            failed.append(len(rows))
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        keep(self, rows, left)

    monkeypatch.setattr(RowsCache, "keep", once)
    sizes = batches_of(monkeypatch)
    replies = await asyncio.gather(*(ask(model, seed=seed, max_tokens=3 + seed) for seed in range(4)))
    assert [done.message for done in replies] == expected
    assert sizes == [4, 2, 1]  # the shortest was done when memory ran out


async def test_not_even_one_fits(model: HuggingFace, monkeypatch: pytest.MonkeyPatch):
    def none(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Generator, "generate", none)
    outcomes = await asyncio.gather(ask(model), ask(model), return_exceptions=True)
    assert all(isinstance(outcome, ModelFailed) and "memory does not suffice for one reply" in str(outcome) for outcome in outcomes)


# --- adapters ----------------------------------------------------------------------------------------------------------------------------


async def test_adapters_are_switched_per_request(folder: Path, model: HuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    adapters = [train(folder, tmp_path, seed=1), train(folder, tmp_path, seed=2), train(folder, tmp_path, full=True)]
    views = [model, *(model.with_adapter(adapter) for adapter in adapters)]
    assert [view.name for view in views[1:]] == [f"{model.name}+{adapter.id}" for adapter in adapters]
    before = [await ask(view, max_tokens=20) for view in views]
    sizes = batches_of(monkeypatch)
    mixed = await asyncio.gather(*(ask(views[number % 4], max_tokens=20) for number in range(8)))
    assert sizes == [2, 2, 2, 2]
    assert [done.message for done in mixed] == [done.message for done in before] * 2
    assert len({done.message.text for done in before}) == 4


async def test_logprobs_under_an_adapter_are_those_of_peft(folder: Path, model: HuggingFace, tmp_path: Path):
    adapter = train(folder, tmp_path)
    await ask(model)
    done = await ask(model.with_adapter(adapter), max_tokens=15)
    assert done.tokens is not None
    ids, made = done.tokens.prompt_ids, list(done.tokens.completion_ids)
    theirs = peft.PeftModel.from_pretrained(load_causal_lm(find_base(str(folder))), adapter.folder)
    with torch.inference_mode():
        scores = theirs(torch.tensor([[*ids, *made]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    assert done.tokens.logprobs == pytest.approx(scores[range(len(made)), made].tolist(), abs=1e-4)


async def test_many_adapters_come_and_go(folder: Path, model: HuggingFace, tmp_path: Path):
    views = [model.with_adapter(train(folder, tmp_path, seed=seed)) for seed in range(LORA_KEPT + 2)]
    first = [(await ask(view)).message for view in views]
    engine = model._queue._load()
    assert len(engine._worn) == LORA_KEPT == len(engine._peft.peft_config)
    assert [(await ask(view)).message for view in views] == first
    assert (await ask(model)).message == (await ask(HuggingFace(str(folder)))).message


async def test_an_adapter_of_another_base_is_refused(folder: Path, model: HuggingFace, tmp_path: Path):
    other = make_toy(tmp_path / "other", seed=8)
    with pytest.raises(InputError, match="trained on other"):
        model.with_adapter(train(other, tmp_path))
    retold = make_toy(tmp_path / "toy", template=TEMPLATE + " ")
    with pytest.raises(InputError, match="another chat template"):
        model.with_adapter(train(retold, tmp_path))


async def test_a_damaged_adapter_is_said_and_the_base_goes_on(folder: Path, model: HuggingFace, tmp_path: Path):
    adapter = train(folder, tmp_path)
    weights = Path(adapter.folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    expected = (await ask(model)).message
    with pytest.raises(InputError):
        await ask(model.with_adapter(adapter))
    assert (await ask(model)).message == expected


# --- tools -------------------------------------------------------------------------------------------------------------------------------


async def test_tools_go_to_the_template(tmp_path: Path):
    model = HuggingFace(str(make_toy(tmp_path / "toy", template=TOOLS_TEMPLATE)), native_tools=True)
    done = await model.complete(question(), tools=[ADD], sampling=Sampling(max_tokens=4))
    assert done.tokens is not None
    assert '"name": "add"' in toy_tokenizer().decode(done.tokens.prompt_ids)


async def test_a_template_that_drops_tools_is_refused(folder: Path):
    model = HuggingFace(str(folder), native_tools=True)
    with pytest.raises(InputError, match="tools"):
        await model.complete(question(), tools=[ADD])
    assert (await ask(model)).message.role == "assistant"


CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def test_calls_are_read_from_the_reply():
    called = ToolCall(id="call_1", name="add", arguments='{"a": 1}')
    read = huggingface._message
    assert read(f"So: {CALL}", "stop", True) == (Message(role="assistant", content="So:", tool_calls=(called,)), "tool_calls")
    assert read(f"So: {CALL}", "stop", False) == (Message(role="assistant", content=f"So: {CALL}"), "stop")
    assert read("No call", "stop", True) == (Message(role="assistant", content="No call"), "stop")
    half = f'{CALL}<tool_call>{{"name": "add", "argu'
    message, finish = read(half, "length", True)
    assert (message.tool_calls, finish) == ((called,), "length")
    assert read(half[len(CALL) :], "length", True)[0].tool_calls == ()


# --- a whole life ------------------------------------------------------------------------------------------------------------------------

WHOLE_LIFE = """
import asyncio, sys
from tutelage.models.huggingface import HuggingFace
from tutelage.records import Message, Sampling

model = HuggingFace(sys.argv[1])
ask = [Message(role="user", content="Say hi.")]
for _ in range(2):
    asyncio.run(model.complete(ask, sampling=Sampling(max_tokens=4)))
calls = [model.complete(ask, sampling=Sampling(max_tokens=900, temperature=9.0, seed=seed)) for seed in range(16)]


async def cut() -> None:
    await asyncio.wait_for(asyncio.gather(*calls), 0.05)


print("quiet", flush=True)
asyncio.run(cut())
"""


def test_a_process_lives_and_ends_quietly(folder: Path):
    """Nothing on stderr but the end in the middle of a generation."""
    command = [sys.executable, "-W", "ignore", "-c", WHOLE_LIFE, str(folder)]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "quiet\n")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.strip().splitlines()[-1] == "TimeoutError"
    assert time.perf_counter() - begun < 60


@pytest.mark.model
async def test_the_embedded_model_answers():
    model = HuggingFace("smollm2-135m", context=512)
    assert model.name == "hf:smollm2-135m"
    done = await model.complete(question("What is the capital of France? One word."), sampling=Sampling(max_tokens=12))
    assert "Paris" in done.message.text
    assert (done.finish, done.usage.tokens_in) == ("stop", 40)
