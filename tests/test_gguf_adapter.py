"""Learned weights on llama.cpp, made without torch: equal to what transformers computes; one model closed after the other."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutelage.agent import Agent
from tutelage.commands.adapter_cli import adapter_app
from tutelage.errors import InputError
from tutelage.model import load_model
from tutelage.models.gguf import GGUF
from tutelage.records import Completion, Message, Sampling

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
peft = pytest.importorskip("peft", reason="extra `train` is not installed")
pytest.importorskip("gguf", reason="extra `local` is not installed")

import numpy as np  # noqa: E402 - only where torch is

from toy_gguf import make_gguf  # noqa: E402
from tutelage.training.adapters import load_adapter, save_adapter  # noqa: E402
from tutelage.training.base import Base, find_base, load_causal_lm, load_tokenizer  # noqa: E402
from tutelage.training.gguf_merge import merge_gguf, wearable_files  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.model]
ASK = [Message(role="user", content="the other day")]
SETTINGS = Sampling(max_tokens=24, logprobs=True)
CLOSE = 0.05  # natural logs; llama.cpp keeps keys and values in float16


REAL_CACHE = os.environ.get("TUTELAGE_CACHE", "")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def random_lora(base: Base, *, seed: int = 0, spread: float = 0.1, **settings):
    """LoRA whose weights are random instead of zero."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **settings})
    model = peft.get_peft_model(load_causal_lm(base, "float32", "cpu"), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, spread)
    return model.eval()


def torch_logprobs(model, completion: Completion) -> list[float]:
    """What the model gives for the very tokens of a reply."""
    trace = completion.tokens
    ids = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]])
    with torch.no_grad():
        rows = model(ids).logits[0, len(trace.prompt_ids) - 1 : -1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(rows, trace.completion_ids, strict=True)]


def differences(model, completion: Completion) -> np.ndarray:
    """How far the logprobs of llama.cpp and torch are apart, token by token."""
    return np.abs(np.array(torch_logprobs(model, completion)) - completion.tokens.logprobs)


def difference(model, completion: Completion) -> float:
    """The largest of them."""
    return float(differences(model, completion).max())


async def reply(model: GGUF, sampling: Sampling = SETTINGS) -> Completion:
    return await model.complete(ASK, sampling=sampling)


@pytest.mark.parametrize(("architecture", "tied"), [("llama", True), ("llama", False), ("qwen2", True)])
async def test_lora_gives_the_same_in_llama_cpp_and_in_torch(tmp_path: Path, architecture: str, tied: bool):
    path = make_gguf(tmp_path / "toy.gguf", architecture=architecture, tied=tied)
    base = find_base(str(path))
    bare = GGUF(path, slots=1, context=256, threads=1)
    assert difference(load_causal_lm(base), await reply(bare)) < CLOSE
    model = random_lora(base, use_rslora=architecture == "qwen2")
    worn = bare.with_adapter(save_adapter(model, base, tmp_path, facts={}))
    completion = await reply(worn)
    assert difference(model, completion) < CLOSE
    assert difference(load_causal_lm(base), completion) > 0.5
    assert wearable_files(worn.adapter, path)[0] == path  # added as it runs, not merged
    for model_there in (bare, worn):
        model_there.rest()


def changed(base: Base, how: str, tokenizer):
    if how == "full":
        model = load_causal_lm(base)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.05)
        return model
    if how == "head":
        return random_lora(base, target_modules=["q_proj", "lm_head"])
    settings = {"embeddings": {"modules_to_save": ["embed_tokens"]}, "rows": {"trainable_token_indices": [5, 120]}}[how]
    model = random_lora(base, **settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora" not in name:
                weight.add_(torch.randn_like(weight) * 0.5)
    return model


@pytest.mark.parametrize("how", ["full", "head", "embeddings", "rows"])
async def test_what_cannot_be_added_is_merged(tmp_path: Path, how: str):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    model = changed(base, how, load_tokenizer(base))
    adapter = save_adapter(model, base, tmp_path / "adapters", facts={})
    worn = GGUF(path, slots=1, context=256, threads=1).with_adapter(adapter)
    completion = await reply(worn)
    assert difference(model, completion) < 0.05  # matrices are float16 there
    assert difference(load_causal_lm(base), completion) > 0.5
    assert difference(load_adapter(load_causal_lm(base), adapter), completion) < 0.05
    assert wearable_files(adapter, path)[1] is None
    worn.rest()


async def test_tokens_that_training_added_enter_the_vocabulary(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<call>"]})
    new = tokenizer.convert_tokens_to_ids("<call>")
    model = load_causal_lm(base)
    model.resize_token_embeddings(len(tokenizer))
    torch.manual_seed(0)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", trainable_token_indices=[new])).eval()
    adapter = save_adapter(model, base, tmp_path / "adapters", facts={}, tokenizer=tokenizer)
    worn = GGUF(path, slots=1, context=256, threads=1).with_adapter(adapter)
    completion = await worn.complete([Message(role="user", content="say <call> now")], sampling=SETTINGS)
    assert completion.tokens.prompt_ids.count(new) == 1
    assert difference(model, completion) < 0.05
    worn.rest()


async def test_merged_for_other_servers_it_is_the_same(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    model = random_lora(base)
    adapter = save_adapter(model, base, tmp_path / "adapters", facts={})
    merged = GGUF(merge_gguf(adapter, path, tmp_path / "merged.gguf", dtype="float32"), slots=1, context=256, threads=1)
    assert difference(model, await reply(merged)) < CLOSE
    merged.rest()


async def test_the_command_makes_models_for_other_servers(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    model = random_lora(base)
    folder = save_adapter(model, base, tmp_path / "adapters", facts={}).folder
    for out in (tmp_path / "merged.gguf", tmp_path / "merged"):
        fold = ["fold", folder, "--base", str(path), "--dtype", "float32", "--out", str(out)]
        done = CliRunner().invoke(adapter_app, fold)
        assert (done.exit_code, f"{out}: " in done.output) == (0, True)
    merged = GGUF(tmp_path / "merged.gguf", slots=1, context=256, threads=1)
    completion = await reply(merged)
    assert difference(model, completion) < CLOSE
    assert difference(load_causal_lm(find_base(str(tmp_path / "merged"))), completion) < CLOSE
    assert "there already" in str(CliRunner().invoke(adapter_app, fold).exception)
    merged.rest()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A.*no place"),
    ],
)
def test_what_llama_cpp_cannot_wear_is_refused(tmp_path: Path, settings: dict, words: str):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    adapter = save_adapter(random_lora(base, **settings), base, tmp_path / "adapters", facts={})
    with pytest.raises(InputError, match=words):
        GGUF(path, slots=1, context=64, threads=1).with_adapter(adapter).load()


def test_another_base_is_refused_before_anything_is_loaded(tmp_path: Path):
    path, other = make_gguf(tmp_path / "toy.gguf"), make_gguf(tmp_path / "other.gguf", seed=1)
    base = find_base(str(path))
    adapter = save_adapter(random_lora(base), base, tmp_path / "adapters", facts={})
    with pytest.raises(InputError, match=r"trained on toy\.gguf .*and the model is gguf:other\.gguf"):
        load_model(f"gguf:{other}?slots=1&context=64", adapter)
    with pytest.raises(InputError, match="cannot wear an adapter"):
        load_model("scripted:echo", adapter)


def test_a_damaged_adapter_is_refused_when_it_is_loaded(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    adapter = save_adapter(random_lora(base), base, tmp_path / "adapters", facts={})
    weights = Path(adapter.folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    worn = GGUF(path, slots=1, context=64, threads=1).with_adapter(adapter)
    with pytest.raises(InputError, match="damaged or edited"):
        worn.load()


def test_the_name_says_the_adapter_and_the_object_is_one(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    first, second = (save_adapter(random_lora(base, seed=seed), base, tmp_path / "adapters", facts={}) for seed in (1, 2))
    bare = GGUF(path, slots=1, context=64, threads=1)
    worn = bare.with_adapter(first)
    assert worn.name == f"{bare.name}+{first.id}"
    assert bare.with_adapter(first) is worn
    assert worn.with_adapter(second).name == f"{bare.name}+{second.id}"  # instead of the one it wears
    agents = [Agent(model=f"gguf:{path}?slots=1", adapter=adapter) for adapter in (None, first.folder, second)]
    assert len({agent.version for agent in agents}) == 3
    assert agents[1].load().name == worn.name
    assert bare._loaded is None  # nothing of this needed the weights


async def test_of_many_adapters_only_the_last_two_stay_loaded(tmp_path: Path):
    """After the third the threads are no more than after the eighth; all are closed when the last reference goes."""
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    bare = GGUF(path, slots=1, context=64, threads=1)
    kept = []
    threads = []
    for seed in range(8):
        worn = bare.with_adapter(save_adapter(random_lora(base, seed=seed, spread=0.5), base, tmp_path / "adapters", facts={}))
        kept.append(worn)  # as a run's collector does
        first = await reply(worn, Sampling(max_tokens=4))
        threads.append(os_threads())
    assert [model._loaded is not None for model in kept] == [False] * 6 + [True] * 2
    assert threads[-1] == threads[2]
    assert (await reply(kept[0], Sampling(max_tokens=4))).message != first.message  # one that rested is loaded again
    engines = [model._loaded for model in kept if model._loaded is not None]
    del worn, bare
    kept.clear()
    for _ in range(50):  # the thread that answered lets go of its request a little later
        gc.collect()
        if all(engine._server is None for engine in engines):
            break
        await asyncio.sleep(0.02)
    assert [engine._server for engine in engines] == [None, None]


def os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else threading.active_count()


async def test_one_at_work_is_not_closed_under_its_request(tmp_path: Path):
    path = make_gguf(tmp_path / "toy.gguf")
    model = GGUF(path, slots=1, context=256, threads=1)
    with model._engine():
        model.rest()
        assert model._loaded is not None
    assert model._loaded is None
    assert (await reply(model)).message.text is not None
    model.rest()


WITHOUT_TORCH = """
import asyncio, sys
for heavy in ("torch", "transformers", "peft", "safetensors"):
    sys.modules[heavy] = None
from tutelage.agent import Agent
from tutelage.records import Message, Sampling
agent = Agent(model="gguf:{path}?slots=1&context=64&threads=1", adapter="{folder}")
print(asyncio.run(agent.load().complete([Message(role="user", content="hi")], sampling=Sampling(max_tokens=3))).usage.tokens_out)
"""


@pytest.mark.parametrize("writable", [True, False])
def test_using_a_trained_agent_needs_no_torch(tmp_path: Path, writable: bool):
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    folder = Path(save_adapter(random_lora(base), base, tmp_path / "adapters", facts={}).folder)
    if not writable:
        folder.chmod(0o555)
    code = WITHOUT_TORCH.format(path=path, folder=folder)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    folder.chmod(0o755)
    assert done.stdout == "3\n", done.stderr


async def test_characters_of_several_tokens_have_their_tokens(tmp_path: Path):
    """In a toy whose tokens are bytes every character beyond ASCII is several; all have their ids and logprobs."""
    path = make_gguf(tmp_path / "toy.gguf")
    bare = GGUF(path, slots=1, context=256, threads=1)
    hot = Sampling(max_tokens=60, logprobs=True, temperature=1.0)
    replies = [await reply(bare, hot.model_copy(update={"seed": seed})) for seed in range(6)]
    model = load_causal_lm(find_base(str(path)))
    for one in replies:
        assert len(one.tokens.completion_ids) == len(one.tokens.logprobs) == one.usage.tokens_out
        assert difference(model, one) < CLOSE
    assert any("\N{REPLACEMENT CHARACTER}" in one.message.text or not one.message.text.isascii() for one in replies)
    bare.rest()


# --- the packaged model ----------------------------------------------------------------------------------------------------------------


async def test_a_real_model_wears_what_torch_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The 4-bit file against float32 in torch: with the adapter on they differ as much as they do without it, by quantisation."""
    monkeypatch.setenv("TUTELAGE_CACHE", REAL_CACHE)
    base = find_base("smollm2-135m")
    bare = GGUF("smollm2-135m", slots=1, context=256, threads=1)
    ask = [Message(role="user", content="Name three European capitals and one river each.")]
    short = Sampling(max_tokens=16, logprobs=True)
    plain = await bare.complete(ask, sampling=short)
    noise = differences(load_causal_lm(base, "float32", "cpu"), plain)
    model = random_lora(base, r=16, lora_alpha=32, spread=0.05)
    worn = bare.with_adapter(save_adapter(model, base, tmp_path, facts={}))
    completion = await worn.complete(ask, sampling=short)
    with_adapter = differences(model, completion)
    with model.disable_adapter():
        without = differences(model, completion)
    assert with_adapter.mean() < 2 * noise.mean() + 0.02
    assert with_adapter[0] < 0.5  # the prompt's next token
    assert without.mean() > 4 * with_adapter.mean()
    for each in (bare, worn):
        each.rest()
