"""What models compute in: one function decides, and training, sampling and the importance correction follow it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
for needed in ("trl", "peft", "transformers"):
    pytest.importorskip(needed, reason="extra `train` is not installed")

from toy_weights import make_toy  # noqa: E402
from tutelage.learners.policy_batch import samples_otherwise  # noqa: E402
from tutelage.models.huggingface import HuggingFace  # noqa: E402
from tutelage.records import Message, Sampling  # noqa: E402
from tutelage.training import base as bases  # noqa: E402
from tutelage.training.base import (  # noqa: E402
    BFLOAT16_FROM,
    Formats,
    find_base,
    load_causal_lm,
    load_tokenizer,
    number_format,
    parameters_of,
    training_formats,
)
from tutelage.training.chat import render_row  # noqa: E402
from tutelage.training.policy_gradient import PolicyGradient, Sample  # noqa: E402
from tutelage.training.rows import SFTRow  # noqa: E402
from tutelage.training.settings import Lora, TrainSettings  # noqa: E402
from tutelage.training.supervised import train_dpo, train_sft  # noqa: E402
from tutelage.training.supervised_job import DPOSettings, Job, SFTSettings, TokenPair  # noqa: E402
from tutelage.training.trainer import PolicyTrainer  # noqa: E402

pytestmark = pytest.mark.torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"))))


@pytest.fixture
def quick_bfloat16(monkeypatch):
    """As on a processor that multiplies matrices of bfloat16, for models of any size."""
    monkeypatch.setattr(bases, "cpu_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(bases, "BFLOAT16_FROM", 1)


# The decision


@pytest.mark.parametrize(
    ("unit", "parameters", "found"), [(True, BFLOAT16_FROM, BF16), (True, BFLOAT16_FROM - 1, F32), (False, 10 * BFLOAT16_FROM, F32)]
)
def test_auto_on_a_cpu_is_bfloat16_for_large_models_where_there_is_a_unit_for_it(monkeypatch, unit, parameters, found):
    monkeypatch.setattr(bases, "cpu_multiplies_bfloat16", lambda: unit)
    assert number_format("auto", CPU, parameters) is found
    assert [number_format(name, CPU, parameters) for name in ("float32", "bfloat16", "float16")] == [F32, BF16, F16], (
        "asked for is asked for"
    )
    assert number_format("auto", torch.device("meta"), parameters) is F32


@pytest.mark.parametrize(("has_it", "found"), [(True, BF16), (False, F32)])
def test_auto_on_a_gpu_is_bfloat16_where_it_has_that(monkeypatch, has_it, found):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_it)
    assert number_format("auto", CUDA, 1) is found


@pytest.mark.parametrize(
    ("capabilities", "library", "found"),
    [(lambda: {"amx_bf16": True}, True, True), (lambda: {"amx_bf16": True}, False, False), (lambda: {"avx2": True}, True, False)],
)
def test_the_processor_is_asked(monkeypatch, capabilities, library, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    assert bases.cpu_multiplies_bfloat16() is found


def test_a_torch_that_cannot_say_has_no_such_unit(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert bases.cpu_multiplies_bfloat16() is False


def test_parameters_are_counted_without_loading_them(base, tmp_path):
    counted = load_causal_lm(base).num_parameters()
    assert parameters_of(base) == counted
    torch.save(load_causal_lm(base).state_dict(), tmp_path / "pytorch_model.bin")
    assert parameters_of(SimpleNamespace(folder=tmp_path)) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ("dtype", "place", "lora", "formats"),
    [
        ("float32", CPU, True, Formats(F32)),
        ("float32", CUDA, False, Formats(F32)),
        ("bfloat16", CPU, True, Formats(F32, autocast=BF16, frozen=BF16)),
        ("bfloat16", CPU, False, Formats(F32, autocast=BF16)),
        ("bfloat16", CUDA, True, Formats(BF16)),
        ("bfloat16", CUDA, False, Formats(F32, autocast=BF16)),
        ("float16", CUDA, True, Formats(F16)),
    ],
)
def test_what_learns_is_float32(dtype, place, lora, formats):
    assert training_formats(dtype, place, 1, lora=lora) == formats
    assert formats.computed is getattr(torch, dtype)


# Training


def gradients(base, formats: Formats) -> tuple[Any, ...]:
    """(last hidden states, gradients of the adapter, what the weights are in) of one backward pass."""
    import peft

    torch.manual_seed(0)
    model = peft.get_peft_model(load_causal_lm(base, "float32"), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
    formats.settle(model)
    ids = torch.arange(3, 99).view(4, 24)
    with torch.autocast("cpu", BF16):
        hidden = model.get_base_model().base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.get_base_model().get_output_embeddings()(hidden)
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
    kinds = {"learns" if weight.requires_grad else name.rpartition(".")[2]: weight.dtype for name, weight in model.named_parameters()}
    return hidden.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None], kinds, model


def test_matrices_that_learn_nothing_are_kept_in_half_the_memory_and_give_the_same_numbers_bit_for_bit(base):
    plain, settled = gradients(base, Formats(F32, BF16)), gradients(base, Formats(F32, BF16, frozen=BF16))
    assert torch.equal(plain[0], settled[0])
    assert len(plain[1]) == len(settled[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(plain[1], settled[1], strict=True))
    linear = settled[3].get_base_model().model.layers[0].mlp.up_proj
    assert linear.base_layer.weight.dtype is BF16
    assert linear.lora_A["default"].weight.dtype is F32
    assert settled[3].get_base_model().get_output_embeddings().weight.dtype is F32, "it may be the embeddings, too"
    assert settled[3].get_base_model().model.norm.weight.dtype is F32


def rows(tokenizer, words=("apple", "fig", "kiwi", "plum")):
    return [
        render_row(tokenizer, SFTRow(prompt=(message("user", word),), completion=(message("assistant", word.upper()),))) for word in words
    ]


def message(role: str, text: str) -> Message:
    return Message(role=role, content=text)


def learned(trained) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in trained.model.named_parameters() if weight.requires_grad}


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("lora", "again"), [(Lora(r=4), "auto"), (None, "float32")], ids=["lora", "full"])
def test_sft_in_bfloat16_learns_what_it_learns_in_float32(base, tmp_path, quick_bfloat16, lora, again):
    """again: the same once more gives the same weights, in bfloat16 too, and after a training in bfloat16 in the same process."""
    settings = {"learning_rate": 3e-3, "max_steps": 3, "per_device_train_batch_size": 4, "warmup_ratio": 0, "lora": lora}
    tokenizer = load_tokenizer(base)
    given = rows(tokenizer)
    exact, quick, third = (
        train_sft(Job(base, tokenizer, tmp_path / str(number)), given, SFTSettings(**settings, dtype=dtype))
        for number, dtype in enumerate(("float32", "auto", again))
    )
    assert [trained.facts["dtype"] for trained in (exact, quick)] == ["float32", "bfloat16"]
    assert {weight.dtype for weight in learned(quick).values()} == {F32}
    assert distance(learned(third), learned(quick if again == "auto" else exact)) == 0
    assert distance(learned(exact), learned(quick)) > 0
    assert quick.facts["loss_last"] == pytest.approx(exact.facts["loss_last"], rel=0.02)
    assert quick.facts["loss_last"] < quick.facts["loss_first"]


def test_dpo_in_bfloat16_asks_the_reference_in_bfloat16(base, tmp_path, quick_bfloat16):
    tokenizer = load_tokenizer(base)
    good, bad = rows(tokenizer), rows(tokenizer, ("melon", "lime", "nut", "date"))
    pairs = [TokenPair(one, other) for one, other in zip(good, bad, strict=True)]
    settings = DPOSettings(learning_rate=1e-3, max_steps=4, warmup_ratio=0, lora=Lora(r=4))
    trained = train_dpo(Job(base, tokenizer, tmp_path), pairs, settings)
    assert trained.facts["dtype"] == "bfloat16"
    assert trained.facts["loss_first"] == pytest.approx(0.6931, abs=2e-3), "log 2: before the first step the reference is the model"
    assert trained.facts["loss_last"] < 0.68


@pytest.mark.parametrize("lora", [Lora(r=4), None], ids=["lora", "full"])
def test_the_policy_gradient_in_bfloat16(base, tmp_path, quick_bfloat16, lora):
    """Old logprobs are of the trainer's own pass, so the first ratio is 1 to the last bit, whatever the sampler computed."""
    samples = [
        Sample((1, 20, 21, 22, 30 + n, 40 + n), (False,) * 4 + (True,) * 2, "a", str(n), float(n % 2), (float("nan"),) * 4 + (-1.0, -3.0))
        for n in range(4)
    ]
    trainer = PolicyTrainer(base, TrainSettings(learning_rate=1e-2, lora=lora, warmup_ratio=0), PolicyGradient(), tmp_path)
    assert trainer.formats.computed is BF16
    assert {weight.dtype for weight in trainer.network.parameters() if weight.requires_grad} == {F32}
    own, foreign = trainer.update(samples), trainer.update(samples, foreign=True)
    assert (own["ratio"], own["ratio_max"]) == (1.0, 1.0)
    assert "importance" not in own
    assert foreign["ratio"] == 1.0
    assert foreign["importance"] != pytest.approx(1.0, abs=1e-3), "the sampler's logprobs were made up"


# Sampling, and what RLVR makes of it


async def test_an_hf_model_samples_in_bfloat16_and_says_so(base, quick_bfloat16):
    model = HuggingFace(str(base.folder), threads=1)
    assert model.number_format == "bfloat16"
    reply = await model.complete([message("user", "fig")], sampling=Sampling(max_tokens=4, temperature=1.0, seed=3))
    engine = model._queue._engine
    assert engine is not None
    assert engine._model.dtype is BF16
    trace = reply.tokens
    assert trace is not None
    with torch.no_grad():
        ids = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]])
        exact = load_causal_lm(base, "float32")(ids).logits[0, len(trace.prompt_ids) - 1 : -1].log_softmax(-1)
    own = [float(row[token]) for row, token in zip(exact, trace.completion_ids, strict=True)]
    assert list(trace.logprobs) == pytest.approx(own, abs=0.05)
    assert HuggingFace(str(base.folder), dtype="float32").number_format == "float32"


def test_small_models_stay_in_float32(base, monkeypatch):
    monkeypatch.setattr(bases, "cpu_multiplies_bfloat16", lambda: True)
    assert HuggingFace(str(base.folder)).number_format == "float32"
    assert load_causal_lm(base).dtype is F32


@pytest.mark.parametrize(
    ("sampler", "trained_in", "otherwise"),
    [("float32", "float32", False), ("bfloat16", "float32", True), ("float32", "bfloat16", True), ("bfloat16", "bfloat16", True)],
)
def test_the_samplers_logprobs_are_read_where_it_or_the_trainer_rounds(base, sampler, trained_in, otherwise):
    model = f"hf:{base.folder}?dtype={sampler}"
    assert samples_otherwise(model, "hf", trained_in) is otherwise
    assert samples_otherwise(model, "gguf", trained_in), "another engine always does"


def history(folder: Path) -> str:
    return (folder / "history.jsonl").read_text()


async def test_rlvr_in_bfloat16_corrects_for_its_sampler(base, tmp_path, quick_bfloat16, monkeypatch):
    import tutelage as tt
    from tutelage.learners import policy_weights
    from tutelage.learners.rlvr import RLVR

    seen: list[tuple[bool, bool]] = []
    update = policy_weights.Weights.update

    def recorded(self, samples, step, *, foreign):
        seen.append((foreign, all(sample.sampled_logprobs is not None for sample in samples)))
        return update(self, samples, step, foreign=foreign)

    monkeypatch.setattr(policy_weights.Weights, "update", recorded)
    found: list[dict[str, Any]] = []
    for dtype in ("auto", "float32"):
        agent = tt.Agent(model=HuggingFace(str(base.folder), dtype=dtype, threads=1), sampling=tt.Sampling(max_tokens=4))
        tasks = [tt.Task(messages=(message("user", f"say {n}"),), reference=f"{n}") for n in range(2)]
        grader = tt.FunctionGrader(lambda task, episode: float(len(set(episode.answer or ""))), "letters")
        practice = tt.Practice(tasks, tt.Collector(grader), folder=tmp_path / dtype)
        learner = RLVR(steps=1, tasks_per_step=2, num_generations=4, validation=0, lora={"r": 4}, dtype=dtype)
        await learner.learn(agent, practice)
        found.append({"dtype": practice.facts["dtype"], "row": history(tmp_path / dtype)})
    assert seen == [(True, True), (False, False)]
    assert [facts["dtype"] for facts in found] == ["bfloat16", "float32"]
    assert "importance" in found[0]["row"]
    assert "importance" not in found[1]["row"]
