"""Levers for little memory in real trainings: what they leave as it is, and that every core takes or refuses them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")

import torch

from toy_weights import make_toy
from tutelage.errors import InputError
from tutelage.training import supervised_run
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.chat import TokenRow
from tutelage.training.keeper import copy_of
from tutelage.training.optimizers import OffloadedAdamW
from tutelage.training.policy_gradient import PolicyGradient, Sample
from tutelage.training.policy_network import build_model
from tutelage.training.settings import Lora, TrainSettings
from tutelage.training.supervised import train_dpo, train_sft
from tutelage.training.supervised_job import DPOSettings, Job, SFTSettings, TokenPair
from tutelage.training.supervised_run import prepare_model
from tutelage.training.trainer import PolicyTrainer
from tutelage.training.trees import language_model_of

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def base(tmp_path_factory):

    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"), layers=1)))


def job(base, folder):

    return Job(base, load_tokenizer(base), folder)


def rows():

    return [TokenRow(ids=(5, 6, 7, number), mask=(False, True, True, True)) for number in range(8, 16)]


def trained(base, folder, **settings):

    options = {"max_steps": 3, "lora": Lora(r=4), "learning_rate": 1e-2, "per_device_train_batch_size": 4, "dtype": "float32", **settings}
    return copy_of(train_sft(job(base, folder), rows(), SFTSettings(**options)).model)


def test_offloaded_adamw_learns_what_adamw_does():

    def run(kind, again: bool = False, **more):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(9)), torch.nn.Parameter(torch.randn(3))]
        groups = [{"params": weights[:1], "weight_decay": 0.1, "rate": 3}, {"params": weights[1:], "weight_decay": 0.0, "rate": 3}]
        optimizer = kind(groups, lr=0.05, **more)
        for step in range(6):
            if again and step == 3:  # from a checkpoint
                state, optimizer = optimizer.state_dict(), kind(groups, lr=0.05, **more)
                optimizer.load_state_dict(state)
            (weights[0].sin().sum() * (step + 1) + (weights[1] ** 3).sum()).backward()
            optimizer.param_groups[0]["lr"] = 0.05 / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
        return weights, optimizer

    theirs, _ = run(torch.optim.AdamW, fused=True)
    plain, _ = run(torch.optim.AdamW, foreach=False)
    ours, optimizer = run(OffloadedAdamW)
    resumed, _ = run(OffloadedAdamW, again=True)
    for mine, exact, near, later in zip(ours, theirs, plain, resumed, strict=True):
        assert torch.equal(mine, exact)
        assert torch.equal(mine, later)
        torch.testing.assert_close(mine, near, rtol=1e-5, atol=1e-6)
    assert all(value.device.type == "cpu" for state in optimizer.state.values() for value in state.values())
    assert len(optimizer.state) == 2  # what has no gradient has no state


def test_an_offloaded_training_learns_the_same(base, tmp_path, monkeypatch):

    plain = trained(base, tmp_path / "plain")
    monkeypatch.setattr(supervised_run, "check_levers", lambda *_: None)  # a CPU is refused it, for want of use
    offloaded = trained(base, tmp_path / "offloaded", offload_optimizer=True)
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)


def test_attention_and_returned_memory_learn_the_same(base, tmp_path):
    plain = trained(base, tmp_path / "plain")
    returned = trained(base, tmp_path / "returned", return_memory=True)
    eager = trained(base, tmp_path / "eager", attn_implementation="eager")
    assert all(torch.equal(plain[name], returned[name]) for name in plain)
    for name in plain:
        torch.testing.assert_close(plain[name], eager[name], rtol=1e-3, atol=1e-3)


def test_the_attention_asked_for_reaches_every_core(base, tmp_path):

    for kind in ("eager", "sdpa"):
        wanted = SFTSettings(attn_implementation=kind)
        for model in (prepare_model(job(base, tmp_path), wanted), build_model(base, wanted, None, "cpu")):
            assert language_model_of(model).config._attn_implementation == kind


@pytest.mark.parametrize("settings", [{"offload_optimizer": True}, {"attn_implementation": "flash_attention_2"}, {"lora": None}])
def test_every_core_refuses_what_cannot_work_here(base, tmp_path, settings):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")

    given = settings if settings != {"lora": None} else {"lora": None, "load_in_4bit": True}
    pairs = [TokenPair(row, row) for row in rows()]
    with pytest.raises(InputError):
        train_sft(job(base, tmp_path), rows(), SFTSettings(**given))
    with pytest.raises(InputError):
        train_dpo(job(base, tmp_path), pairs, DPOSettings(**given))
    with pytest.raises(InputError):
        PolicyTrainer(base, TrainSettings(**given), PolicyGradient(), tmp_path)


def test_a_loaded_model_is_not_put_into_4_bits(base):

    with pytest.raises(InputError, match="loaded already"):
        build_model(load_causal_lm(base, "float32"), TrainSettings(load_in_4bit=True), None, "cpu")


def test_4_bits_and_8_bits_train(base, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

    before = trained(base, tmp_path / "plain", max_steps=1, learning_rate=1e-9)
    for settings in ({"load_in_4bit": True}, {"optim": "adamw_8bit"}, {"load_in_4bit": True, "optim": "adamw_8bit"}):
        learned = trained(base, tmp_path / "few", **settings)
        assert learned.keys() == before.keys()
        assert any(not torch.equal(learned[name], before[name]) for name in learned)
    kinds = {type(part).__name__ for part in load_causal_lm(base, "float32", four_bit="float32").modules()}
    assert "Linear4bit" in kinds
    trainer = PolicyTrainer(base, TrainSettings(load_in_4bit=True, optim="adamw_8bit", dtype="float32"), PolicyGradient(), tmp_path / "rl")
    samples = [Sample((5, 6, 7, 8 + end), (False, True, True, True), "task", str(end), reward=float(end)) for end in (0, 1)]
    assert trainer.update(samples)["grad_norm"] > 0
    trainer.checkpoint({})
    assert trainer.restore() == {}
