"""The planner: sizes from descriptions, bytes by part, sets of levers, what is recommended, and what is said of it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from tutelage.commands.plan_cli import plan as plan_command
from tutelage.errors import InputError
from tutelage.training import planned
from tutelage.training.activations import Numbers, Pass, block_bytes, lora_parameters, numbers_of, pass_bytes
from tutelage.training.gguf_head import read_gguf_head
from tutelage.training.machine import Machine
from tutelage.training.memory import PROCESS, Case, Parts, Rows, moments, optimizer_bytes, peak_parts, weight_bytes
from tutelage.training.model_facts import facts_of_config, model_facts_of, read_model_facts
from tutelage.training.planned import noted, rows_of
from tutelage.training.planner import lines_of, make_plan, policy_case, supervised_case
from tutelage.training.policy_gradient import PolicyGradient
from tutelage.training.settings import Lora, TrainSettings
from tutelage.training.step_time import step_operations
from tutelage.training.supervised_job import DPOSettings, SFTSettings

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 20,
    "vocab_size": 50,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
FACTS = facts_of_config(CONFIG, "toy", file="config.json")
"""H 8, I 20, two heads of 4: queries 8, keys 4; block 8x8 + 2 (8x4) + 8x8 + 3 (8x20) = 672 numbers."""
LARGE = facts_of_config(
    {**CONFIG, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    | {"vocab_size": 49_152},
    "large",
    file="config.json",
)
CPU = Machine("cpu", memory=64 << 30, host_memory=64 << 30)
GPU = Machine("cuda", "A100", 40 << 30, 64 << 30, (8, 0), bfloat16=True, packages={"bitsandbytes": (0, 50, 2)})
PLAIN = Numbers(4, 4, 4, autocast=False)
ONE = Pass(tokens=10, width=10, lines=1, learned=9)


# -- sizes


def test_parameters_are_counted_as_a_llama_has_them():
    assert FACTS.block == 672
    assert FACTS.parameters == 3 * (672 + 2 * 8) + 8 + 50 * 8
    untied = facts_of_config({**CONFIG, "tie_word_embeddings": False}, "toy", file="x")
    assert untied.parameters - FACTS.parameters == 50 * 8
    qwen = facts_of_config({**CONFIG, "model_type": "qwen2"}, "toy", file="x")
    assert qwen.parameters - FACTS.parameters == 3 * (8 + 2 * 4)  # biases of queries, keys and values
    assert LARGE.parameters == 134_515_008  # SmolLM2-135M


def test_other_words_and_other_families_are_said_to_be_assumed():
    gpt = {"model_type": "gpt2", "n_embd": 8, "n_layer": 3, "n_head": 2, "vocab_size": 50}
    found = facts_of_config(gpt, "gpt", file="x")
    assert (found.hidden, found.layers, found.intermediate, found.kv_heads) == (8, 3, 32, 2)
    assert "gpt2" in str(found.assumption)
    assert FACTS.assumption is None
    nested = facts_of_config({"model_type": "vlm", "text_config": CONFIG}, "vlm", file="x")
    assert nested.hidden == 8


@pytest.mark.parametrize("content", ["{}", "[]", "{", json.dumps({**CONFIG, "hidden_size": None})])
def test_a_description_that_cannot_be_read_is_an_error(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as raised:
        read_model_facts(str(tmp_path))
    assert raised.value.field == "model"


def test_models_that_are_not_there_or_not_ours_are_errors(tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.json"):
        read_model_facts(str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        read_model_facts(str(tmp_path / "absent.gguf"))
    with pytest.raises(InputError, match="not here to be trained"):
        model_facts_of("endpoint:gpt-4o-mini")
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(InputError, match="neither"):
        read_model_facts(str(tmp_path / "notes.txt"))


def test_files_are_counted_where_they_are_there(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    header = json.dumps({"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(60))
    assert read_model_facts(str(tmp_path)).parameters == 15


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes() -> bytes:
    numbers = {
        "llama.embedding_length": 8,
        "llama.block_count": 3,
        "llama.feed_forward_length": 20,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.context_length": 64,
    }
    settings = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    settings += [text(name) + struct.pack("<II", 4, value) for name, value in numbers.items()]
    settings += [text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)]
    settings += [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("three")]
    settings += [text("tokenizer.ggml.scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.0, 1.0)]
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 50, 0, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, len(settings)) + b"".join(settings) + tensor


def test_a_gguf_is_described_without_its_weights(tmp_path: Path):
    path = tmp_path / "toy.gguf"
    path.write_bytes(gguf_bytes())
    settings, shapes = read_gguf_head(path)
    assert shapes == {"token_embd.weight": (50, 8)}
    assert settings["llama.block_count"] == 3
    assert "tokenizer.ggml.tokens" not in settings
    assert replace(read_model_facts(str(path)), name="toy") == FACTS


@pytest.mark.parametrize("cut", [4, 12, 30, 200, 400])
def test_a_gguf_that_is_cut_off_is_an_error(tmp_path: Path, cut: int):
    path = tmp_path / "toy.gguf"
    path.write_bytes(gguf_bytes()[:cut])
    with pytest.raises(InputError, match="damaged"):
        read_gguf_head(path)


# -- bytes


def test_a_block_is_counted_by_hand():
    whole = 4 * 20 * 4 + 2 * 8 * 4 + 2 * 4 * 4 + 6 * 8 * 4 + 4 * 2 + 8  # gate and co., queries, keys and values, hidden, scales
    assert block_bytes(FACTS, TrainSettings(lora=None), PLAIN, ONE) == whole
    lora = whole - 2 * 8 * 4 + 7 * 5 * 4  # norms do not learn; adapters' inner products
    assert block_bytes(FACTS, TrainSettings(lora=Lora(r=5)), PLAIN, ONE) == lora
    masked = replace(ONE, masked=True)
    assert block_bytes(FACTS, TrainSettings(lora=None), PLAIN, masked) == whole + 2 * (8 - 4) * 4  # keys and values for each head
    short = Numbers(2, 4, 4, autocast=True)
    cast = 4 * 20 * 2 + 2 * 8 * 2 + 2 * 4 * 2 + 4 * 8 * 4 + 5 * 8 * 2 + 16
    assert block_bytes(FACTS, TrainSettings(lora=None), short, ONE) == cast


def test_checkpointing_keeps_the_beginning_of_each_block_and_one_whole():
    one = block_bytes(FACTS, TrainSettings(lora=Lora()), PLAIN, ONE)
    around = 8 * 4  # the rotary embedding's angles
    assert pass_bytes(FACTS, TrainSettings(lora=Lora()), PLAIN, ONE) == 10 * (3 * one + around)
    assert pass_bytes(FACTS, TrainSettings(lora=Lora(), gradient_checkpointing=True), PLAIN, ONE) == 10 * (3 * 8 * 4 + one + around)


def test_number_formats_are_those_of_training():
    fast = replace(CPU, bfloat16=True)
    assert numbers_of(TrainSettings(), fast, 10_000) == PLAIN
    assert numbers_of(TrainSettings(), CPU, 10**9) == PLAIN
    assert numbers_of(TrainSettings(), fast, 10**9) == Numbers(2, 4, 4, autocast=True)
    assert numbers_of(TrainSettings(), GPU, 10_000) == Numbers(2, 2, 2, autocast=True)
    assert numbers_of(TrainSettings(lora=None), GPU, 10_000) == Numbers(2, 4, 4, autocast=True)
    assert numbers_of(TrainSettings(dtype="float32"), GPU, 10_000) == PLAIN


def test_weights_and_state_are_counted_by_hand():
    lora = TrainSettings(lora=Lora(r=2))
    adapters = 3 * 2 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 3 * (8 + 20))
    assert lora_parameters(lora, FACTS) == adapters == 840
    assert lora_parameters(TrainSettings(lora=Lora(r=2, target_modules=("q_proj",))), FACTS) == 3 * 2 * 16
    assert weight_bytes(FACTS, lora, PLAIN, on_cpu=True) == 4 * FACTS.parameters + 4 * adapters
    assert weight_bytes(FACTS, TrainSettings(lora=None), PLAIN, on_cpu=True) == 4 * FACTS.parameters
    quarter = weight_bytes(FACTS, lora.model_copy(update={"load_in_4bit": True}), PLAIN, on_cpu=True)
    rest = FACTS.parameters - 3 * 672
    assert quarter == pytest.approx(4 * adapters + 4 * rest + 3 * 672 * (0.5 + 1 / 64 + 4 / (64 * 256)), abs=1)
    assert optimizer_bytes(FACTS, lora, adapters) == 8 * adapters
    assert optimizer_bytes(FACTS, TrainSettings(optim="adamw_8bit"), 256 * 10) == 2 * 256 * 10 + 8 * 10
    assert optimizer_bytes(FACTS, TrainSettings(offload_optimizer=True), adapters) == 0


def test_gradients_stand_beside_activations_from_the_second_pass_on():
    settings = SFTSettings(lora=None, dtype="float32", max_tokens_per_micro_batch=64)
    one, several = (supervised_case(settings, Rows((64,) * count)) for count in (1, 3))
    assert one.passes(CPU)[1] == 1
    assert several.passes(CPU) == (Pass(64, 64, 1, 64), 3)
    head, all_of = 4 * FACTS.head, 4 * FACTS.parameters
    assert moments(FACTS, one, CPU)["forward"].gradients == head
    assert moments(FACTS, several, CPU)["forward"].gradients == all_of + head
    assert moments(FACTS, one, CPU)["step"].gradients == all_of
    accumulated = supervised_case(settings.model_copy(update={"gradient_accumulation_steps": 2}), Rows((64,)))
    assert accumulated.passes(CPU)[1] == 2


def test_rows_that_begin_alike_are_counted_once():
    settings = SFTSettings()
    apart, alike = (supervised_case(settings, Rows((100,) * 4, common=common)).passes(CPU)[0] for common in (0, 90))
    assert apart == Pass(400, 100, 4, 400)
    assert (alike.tokens, alike.masked) == (90 + 4 * 10, True)
    padded = supervised_case(SFTSettings(share_prefixes=False), Rows((100, 20)))
    assert padded.passes(CPU)[0] == Pass(200, 100, 2, 120)
    flash = supervised_case(SFTSettings(attn_implementation="flash_attention_2"), Rows((100, 20)))
    assert not flash.shares


def test_reinforcement_counts_what_samples():
    case = policy_case(TrainSettings(), PolicyGradient(), Rows((32,) * 4), sampler=True)
    found = moments(FACTS, case, CPU)
    cache = 4 * 32 * 3 * 2 * 4 * 4
    assert found["sampling"].sampler == 4 * FACTS.parameters + cache
    assert found["forward"].sampler == 4 * FACTS.parameters
    assert "sampling" not in moments(FACTS, replace(case, sampler=False), CPU)
    assert found["forward"].kept == 0


def test_the_process_counts_on_a_cpu_alone():
    case = supervised_case(SFTSettings(), Rows((64,)))
    assert peak_parts(FACTS, case, CPU).process == PROCESS
    assert peak_parts(FACTS, case, CPU, process=7).process == 7
    on_gpu = peak_parts(FACTS, case, GPU)
    assert (on_gpu.process, on_gpu.lost, on_gpu.kept) == (0, 0, 0)
    assert Parts(weights=3, loss=4).total == 7


# -- plans


def large(memory: float, machine: Machine = CPU, **settings):
    case = supervised_case(SFTSettings(dtype="float32", **settings), Rows((512,) * 8))
    return make_plan(LARGE, case, replace(machine, memory=round(memory * 2**30)))


def test_less_memory_makes_another_recommendation():
    roomy, tighter, tight, too_tight = (large(memory) for memory in (64, 3.0, 1.8, 0.5))
    assert roomy.best is not None
    assert not roomy.best.changes
    assert roomy.warning() is None
    assert tighter.best is not None
    assert tight.best is not None
    assert tighter.best.changes
    assert tight.best.time > tighter.best.time
    assert tight.best.peak <= 0.9 * 1.8 * 2**30
    assert too_tight.best is None
    assert "no set of levers" in str(too_tight.warning())


def test_what_learns_the_same_comes_first():
    plan = large(5.5, lora=None)
    assert plan.best is not None
    assert not plan.best.relearns
    assert any(one.relearns and one.time < plan.best.time and one.fits for one in plan.sets)
    forced = large(2.5, lora=None)
    assert forced.best is not None
    assert "lora" in forced.best.changes


def test_the_warning_names_what_would_fit():
    plan = large(2.5)
    assert plan.best is not None
    said = str(plan.warning())
    assert "2.50 GiB" in said
    assert all(line in said for line in lines_of(plan.best.changes))


def test_levers_lower_the_peak_and_cost_time():
    plan = large(64)
    by = {tuple(sorted(one.changes)): one for one in plan.sets}
    for lever in ("gradient_checkpointing", "return_memory"):
        assert by[lever,].peak < plan.now.peak
        assert by[lever,].time > 1
    assert not any("offload_optimizer" in one.changes or "load_in_4bit" in one.changes for one in plan.sets)
    assert "offload_optimizer: true" in plan.refused
    on_gpu = make_plan(LARGE, supervised_case(SFTSettings(lora=None), Rows((512,) * 8)), GPU)
    assert any(one.changes == {"offload_optimizer": True} for one in on_gpu.sets)
    assert any("load_in_4bit" in one.changes for one in on_gpu.sets)
    assert not any(one.changes.get("optim") and one.changes.get("offload_optimizer") for one in on_gpu.sets)


def test_settings_that_exclude_each_other_are_said_in_the_plan():
    plan = large(64, lora=None, load_in_4bit=True)
    assert "exclude each other" in str(plan.problem)


def test_checkpointing_costs_a_forward_pass():
    def operations(**settings) -> float:
        return step_operations(LARGE, supervised_case(SFTSettings(dtype="float32", **settings), Rows((512,) * 8)), CPU)

    assert operations(lora=None, gradient_checkpointing=True) / operations(lora=None) == pytest.approx(4 / 3, abs=0.1)
    assert operations() < operations(lora=None)


def test_dpo_has_two_sides():
    token_rows = [SimpleNamespace(ids=(1, 2, 3, number), mask=(False, True, True, True)) for number in range(8)]
    settings = DPOSettings(per_device_train_batch_size=2, max_steps=3)
    rows = rows_of(token_rows, settings, sides=2)
    assert rows == Rows((4, 4, 4, 4), common=3, learned=0.75, steps=3)
    assert supervised_case(settings, rows).kind == "dpo"
    assert not rows_of([], settings, sides=2).known


# -- what is noted and said


def test_a_plan_is_noted_with_its_warning():
    assert noted(None) == {}
    assert list(noted(large(64))) == ["memory_planned_mb"]
    assert "GiB" in str(noted(large(0.5))["memory_warning"])


app = typer.Typer()
app.command()(plan_command)


@pytest.fixture
def study(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 512, "num_hidden_layers": 12}))
    for name, first in (("train", 0), ("test", 10)):
        lines = [json.dumps({"input": f"colour {first + number}?", "reference": "yellow"}) for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    learners = "[exemplars, {sft: {lora: null, dtype: float32}, as: whole}, {curriculum: [sft, {rlvr: {steps: 2}}], as: both}]"
    (tmp_path / "study.yaml").write_text(
        "name: planned\nagent: {model: 'hf:model', instructions: Answer.}\ntasks: {train: train.jsonl, test: test.jsonl}\n"
        f"grader: exact\nlearners: {learners}\n"
    )
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "study.yaml"


def told(study: Path, *options: str) -> str:
    result = CliRunner().invoke(app, [str(study), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_plans_each_arm_that_trains(study: Path):
    output = told(study)
    assert "whole (sft)" in output
    assert "both.sft (sft)" in output
    assert "both.rlvr-grpo (rlvr)" in output
    assert "exemplars-fixed: does not train weights" in output
    assert "optimiser state" in output
    assert "It fits as it is." in output
    assert "not here: offload_optimizer: true" in output


def test_the_command_recommends_what_to_paste(study: Path):
    output = told(study, "--arm", "whole", "--memory", "0.75")
    assert "both" not in output
    assert "Fits with" in output
    assert "  lora: {r: 16, lora_alpha: 32}" in output
    assert "No set of levers" in told(study, "--arm", "whole", "--memory", "0.2")


def test_the_command_gives_data(study: Path):
    found = json.loads(told(study, "--json", "--memory", "2"))
    assert found["do_not_train"] == ["exemplars-fixed"]
    assert found["machine"]["memory"] == 2 << 30
    whole = found["plans"][0]
    assert whole["now"]["peak_bytes"] == sum(whole["now"]["parts_bytes"].values())
    assert whole["recommended"]["fits"]
    assert {one["learns_something_else"] for one in whole["sets"]} == {False, True}


def test_the_command_takes_changes(study: Path):
    plain, less = (json.loads(told(study, "--json", "--arm", "whole", *more)) for more in ((), ("--set", "learners.1.sft.max_length=64")))
    assert less["plans"][0]["now"]["peak_bytes"] < plain["plans"][0]["now"]["peak_bytes"]


def test_a_study_without_training_has_nothing_to_plan(study: Path):
    output = told(study, "--set", "learners=[exemplars]", "--set", "agent.model=scripted:echo")
    assert "nothing to plan" in output
    assert "Peak" not in output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--arm", "nobody"), "nobody"),
        (("--set", "agent.model=endpoint:gpt"), "not here to be trained"),
        (("--set", "learners.1.sft.optim=adam"), "optim"),
    ],
)
def test_what_cannot_be_planned_is_an_error(study: Path, options: tuple[str, ...], why: str):
    with pytest.raises(InputError, match=why):
        CliRunner().invoke(app, [str(study), *options], catch_exceptions=False)


def test_a_model_that_cannot_be_read_is_an_error(study: Path):
    (study.parent / "model" / "config.json").write_text("no JSON")
    with pytest.raises(InputError, match="cannot be read"):
        CliRunner().invoke(app, [str(study)], catch_exceptions=False)


def test_a_plan_is_quiet_about_models_that_say_too_little(tmp_path: Path):
    base = SimpleNamespace(folder=tmp_path)
    assert planned.plan_of(base, Case("sft", TrainSettings(), Rows((8,)))) is None  # type: ignore[arg-type]
