"""What autograd is seen to keep of a pass, beside what the planner counts; and what is noted of a real training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from toy_weights import make_toy
from tutelage.training import planned
from tutelage.training.activations import Numbers, Pass, lora_parameters, pass_bytes
from tutelage.training.base import find_base, load_tokenizer
from tutelage.training.chat import TokenRow
from tutelage.training.machine import Machine
from tutelage.training.model_facts import facts_of_config
from tutelage.training.settings import Lora, TrainSettings
from tutelage.training.supervised import train_dpo, train_sft
from tutelage.training.supervised_job import DPOSettings, Job, SFTSettings, TokenPair

pytestmark = pytest.mark.torch
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
TOKENS, RANK = 96, 4


def model_of(kind: str, settings: TrainSettings) -> Any:
    """Widths that all differ, so that no two tensors can be taken for each other."""
    own = {} if kind == "qwen2" else {"head_dim": 16}
    sizes = {"hidden_size": 72, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](vocab_size=128, tie_word_embeddings=True, **sizes, **own))
    if settings.lora is None:
        return model.train()
    targets = settings.lora.target_modules
    modules = targets if isinstance(targets, str) else list(targets)
    return get_peft_model(model, LoraConfig(r=settings.lora.r, target_modules=modules, task_type="CAUSAL_LM")).train()


def bytes_kept(model: Any, run: Callable[[], Any]) -> int:
    """Of all tensors that autograd saves, each memory once, parameters left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    assert kept.requires_grad
    return sum(storage.nbytes() for place, storage in seen.items() if place not in own)


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize(
    ("lora", "autocast"),
    [(None, False), (None, True), (Lora(r=RANK), False), (Lora(r=RANK), True), (Lora(r=RANK, target_modules=("q_proj", "v_proj")), False)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_what_autograd_keeps_is_what_is_counted(kind: str, lora: Lora | None, autocast: bool, masked: bool):
    settings = TrainSettings(lora=lora)
    model = model_of(kind, settings)
    inner = model.get_base_model() if lora else model
    facts = facts_of_config(inner.config.to_dict(), kind, file="config.json")
    assert facts.parameters == sum(weight.numel() for name, weight in model.named_parameters() if "lora" not in name)
    ids, dtype = torch.randint(0, 128, (1, TOKENS)), torch.bfloat16 if autocast else torch.float32
    allowed = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min) if masked else None

    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            places = torch.arange(TOKENS)[None]
            return inner.base_model(input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False).last_hidden_state

    numbers = Numbers(2, 4, 4, autocast=True) if autocast else Numbers(4, 4, 4, autocast=False)
    one = Pass(TOKENS, TOKENS, 1, TOKENS, masked)
    counted = pass_bytes(facts, settings, numbers, one) - (TOKENS**2 if masked else 0)  # whether a place is seen, in a byte, is ours
    if autocast:  # copies of the weights: in bfloat16 where they learn; of frozen ones here, too, which training keeps in bfloat16
        counted += 2 * (lora_parameters(settings, facts) + facts.layers * facts.block)
    first = lora is not None and (autocast or lora.target_modules != "all-linear")  # the first block keeps a little less than the others
    assert bytes_kept(model, run) == pytest.approx(counted, rel=0.04 if first else 0.01)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"), layers=1)))


def rows() -> list[TokenRow]:
    return [TokenRow(ids=(5, 6, 7, number), mask=(False, True, True, True)) for number in range(8, 12)]


def test_the_forecast_is_noted_beside_the_peak(base, tmp_path, capsys):
    job = Job(base, load_tokenizer(base), tmp_path)
    facts = train_sft(job, rows(), SFTSettings(max_steps=2)).facts
    if not torch.cuda.is_available():
        assert 0.5 < int(str(facts["memory_planned_mb"])) / int(str(facts["peak_memory_mb"])) < 1.5
    assert "memory_warning" not in facts
    assert "warning" not in capsys.readouterr().err


def test_a_run_that_would_not_fit_says_so_before_it_begins_and_runs(base, tmp_path, capsys, monkeypatch):
    machine = Machine("cpu", memory=32 << 20, host_memory=32 << 20)
    monkeypatch.setattr(planned, "this_machine", lambda: machine)
    job = Job(base, load_tokenizer(base), tmp_path)
    pairs = [TokenPair(one, other) for one, other in zip(rows(), rows()[1:], strict=False)]
    facts = train_dpo(job, pairs, DPOSettings(max_steps=1)).facts
    assert "warning: training is forecast to need" in capsys.readouterr().err
    assert "GiB" in str(facts["memory_warning"])
    assert facts["steps"] == 1
