"""Levers for little memory: what each needs, which exclude each other, and that they do what they say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.errors import InputError, MissingExtra
from tutelage.learners.policy_settings import read_policy_settings
from tutelage.learners.sft import SFT
from tutelage.training.levers import check_levers, problem_of
from tutelage.training.machine import Machine, installed, main_memory, this_machine
from tutelage.training.settings import SPEED_ONLY, TrainSettings
from tutelage.training.supervised_job import DPOSettings, SFTSettings

CPU = Machine("cpu", memory=8 << 30, host_memory=8 << 30)
GPU = Machine("cuda", "A100", 40 << 30, 64 << 30, (8, 0), bfloat16=True, packages={"bitsandbytes": (0, 50, 2), "flash-attn": (2, 8, 0)})


def refusal(machine: Machine, **settings) -> InputError:
    found = problem_of(SFTSettings(**settings), machine)
    assert found is not None
    return found


# -- settings


def test_levers_at_their_defaults_are_no_part_of_what_is_hashed():
    before = (
        "learning_rate lr_scheduler_type warmup_ratio weight_decay max_grad_norm per_device_train_batch_size gradient_accumulation_steps "
        "gradient_checkpointing max_length truncate dtype lora"
    )
    assert list(TrainSettings().model_dump(mode="json")) == before.split()
    assert TrainSettings(optim="adamw_8bit").model_dump(mode="json")["optim"] == "adamw_8bit"
    assert TrainSettings.model_validate(TrainSettings(load_in_4bit=True).model_dump()) == TrainSettings(load_in_4bit=True)


def test_a_lever_that_changes_nothing_learned_leaves_the_fingerprint_and_one_that_does_changes_it():
    plain = SFT().described()
    assert SFT(attn_implementation="sdpa", return_memory=True, offload_optimizer=True).described() == plain
    assert SFT(optim="adamw_8bit").described() != plain
    assert SFT(load_in_4bit=True).described() != plain
    policy = read_policy_settings({}, "rlvr").described()
    assert not SPEED_ONLY & policy.keys()
    assert read_policy_settings({"offload_optimizer": True}, "rlvr").described() == policy
    assert read_policy_settings({"optim": "adamw_8bit"}, "rlvr").described() != policy


# -- levers that exclude each other


@pytest.mark.parametrize(
    ("settings", "both", "way_out"),
    [
        ({"load_in_4bit": True, "lora": None}, ("load_in_4bit", "lora"), "give `lora`"),
        ({"offload_optimizer": True, "optim": "adamw_8bit"}, ("offload_optimizer", "optim"), "adamw_torch"),
        ({"attn_implementation": "flash_attention_2", "dtype": "float32"}, ("attn_implementation", "dtype"), "bfloat16"),
        ({"attn_implementation": "flash_attention_2", "share_prefixes": True}, ("attn_implementation", "share_prefixes"), "sdpa"),
        ({"attn_implementation": "flash_attention_2", "packing": True}, ("attn_implementation", "packing"), "sdpa"),
    ],
)
@pytest.mark.parametrize("machine", [CPU, GPU])
def test_levers_that_exclude_each_other_are_named_with_the_way_out(settings, both, way_out, machine):
    error = refusal(machine, **settings)
    assert all(name in str(error) for name in both)
    assert "exclude each other" in str(error)
    assert way_out in str(error)
    assert error.field == both[0]


def test_flash_attention_leaves_rows_apart_where_nobody_asked_for_more():
    assert problem_of(SFTSettings(attn_implementation="flash_attention_2"), GPU) is None
    assert problem_of(SFTSettings(attn_implementation="flash_attention_2", share_prefixes=False, packing=False), GPU) is None
    assert problem_of(TrainSettings(attn_implementation="flash_attention_2"), GPU, shares=True) is not None


@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"optim": "adamw_8bit"}, {"offload_optimizer": True}])
def test_what_cannot_be_cut_into_parts_is_refused_where_weights_are_sharded(settings):
    assert problem_of(TrainSettings(**settings), GPU) is None
    with pytest.raises(InputError, match="sharded weights") as raised:
        check_levers(TrainSettings(**settings), GPU, sharded=True)
    assert raised.value.field in settings


# -- levers that cannot work here


@pytest.mark.parametrize(
    ("machine", "settings", "why"),
    [
        (CPU, {"offload_optimizer": True}, "main memory already"),
        (CPU, {"attn_implementation": "flash_attention_2"}, "runs on a GPU"),
        (CPU, {"optim": "adamw_8bit"}, "bitsandbytes"),
        (CPU, {"load_in_4bit": True}, "bitsandbytes"),
        (replace(CPU, packages={"bitsandbytes": (0, 50, 2)}), {"optim": "paged_adamw_8bit"}, "use adamw_8bit"),
        (replace(CPU, packages={"bitsandbytes": (0, 49, 1)}), {"optim": "adamw_8bit"}, "needs bitsandbytes 0.50 on a CPU, and 0.49.1 is"),
        (replace(CPU, glibc=False), {"return_memory": True}, "not GNU's"),
        (GPU, {"return_memory": True}, "GPU"),
        (replace(GPU, capability=(7, 5), name="T4"), {"attn_implementation": "flash_attention_2"}, "of T4 is 7.5"),
        (replace(GPU, packages={}), {"attn_implementation": "flash_attention_2"}, "flash-attn"),
        (replace(GPU, packages={}), {"load_in_4bit": True}, "tutelage\\[cuda\\]"),
        (replace(GPU, packages={"bitsandbytes": (0, 40)}), {"load_in_4bit": True}, "0.46.1"),
    ],
)
def test_a_lever_that_cannot_work_here_is_refused_with_the_reason(machine, settings, why):
    with pytest.raises(InputError, match=why):
        check_levers(SFTSettings(**settings), machine)


def test_absent_packages_are_named_with_what_installs_them():
    assert isinstance(refusal(CPU, load_in_4bit=True), MissingExtra)
    assert "pip install" in str(refusal(replace(GPU, packages={}), attn_implementation="flash_attention_2"))


@pytest.mark.parametrize(
    "settings",
    [
        {"offload_optimizer": True},
        {"optim": "paged_adamw_8bit"},
        {"load_in_4bit": True},
        {"attn_implementation": "flash_attention_2"},
        {"load_in_4bit": True, "optim": "adamw_8bit", "gradient_checkpointing": True, "gradient_accumulation_steps": 4},
    ],
)
def test_levers_that_a_gpu_takes(settings):
    assert problem_of(SFTSettings(**settings), GPU) is None
    assert problem_of(DPOSettings(**settings), GPU) is None


def test_levers_that_every_machine_takes():
    for settings in (SFTSettings(), SFTSettings(gradient_checkpointing=True, lora=None, gradient_accumulation_steps=8), TrainSettings()):
        assert problem_of(settings, CPU) is None
        assert problem_of(settings, GPU) is None
    assert problem_of(SFTSettings(return_memory=True), CPU) is None
    assert problem_of(SFTSettings(optim="adamw_8bit", load_in_4bit=True), replace(CPU, packages={"bitsandbytes": (0, 50, 2)})) is None


# -- the machine


def test_memory_is_what_is_free_within_the_cgroup_and_what_the_process_has(tmp_path: Path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "self" / "statm").write_text("9999 1000 0 0 0 0 0")
    (proc / "meminfo").write_text("MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable:    5000 kB\n")

    own = 1000 * os.sysconf("SC_PAGE_SIZE")
    assert main_memory(proc, cgroup) == 5000 * 1024 + own
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("5\n")
    assert main_memory(proc, cgroup) == 5000 * 1024 + own
    (cgroup / "memory.max").write_text("3000000\n")
    (cgroup / "memory.current").write_text("1000000\n")
    (cgroup / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert main_memory(proc, cgroup) == 2_200_000 + own


def test_this_machine_has_memory():
    found = this_machine()
    assert found.kind in ("cpu", "cuda")
    assert found.memory > 1 << 26
    assert installed("pydantic") >= (2,)
    assert installed("no-such-package") is None
