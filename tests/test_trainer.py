"""The trainer of policies: it learns, repeats itself, survives being killed, and says what is wrong."""

from __future__ import annotations

import json
import math
import shutil

import pytest

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from toy_weights import make_toy  # noqa: E402
from tutelage.errors import InputError, StoreError  # noqa: E402
from tutelage.training import trainer as trainer_module  # noqa: E402
from tutelage.training.base import find_base, load_causal_lm  # noqa: E402
from tutelage.training.divergence import Diverged  # noqa: E402
from tutelage.training.policy_gradient import PolicyGradient, Sample  # noqa: E402
from tutelage.training.settings import Lora, TrainSettings  # noqa: E402
from tutelage.training.steps import schedule  # noqa: E402
from tutelage.training.trainer import PolicyTrainer  # noqa: E402

PROMPT, LENGTH = (1, 20, 21, 22), 6
FAST = TrainSettings(learning_rate=1e-2, lora=Lora(r=8), lr_scheduler_type="constant", warmup_ratio=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_base(str(make_toy(tmp_path_factory.mktemp("toy"), width=32)))


def made(base, folder, settings=FAST, adapter=None, seed=0, total_updates=None, **policy):
    return PolicyTrainer(base, settings, PolicyGradient(**policy), folder, adapter=adapter, seed=seed, total_updates=total_updates)


def draw(trainer, seed, number=16, prompts=(PROMPT,)):
    """A plain sampler: the reward of a completion is the share of its tokens that are multiples of four."""
    generator = torch.Generator().manual_seed(seed)
    model, samples = trainer.network.language_model, []
    for group, prompt in enumerate(prompts):
        ids, logprobs = torch.tensor([prompt] * number), []
        for _ in range(LENGTH):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[:, -1]
            chosen = torch.multinomial((logits / trainer.policy.temperature).softmax(-1), 1, generator=generator)
            logprobs.append(logits.log_softmax(-1).gather(1, chosen))
            ids = torch.cat([ids, chosen], 1)
        known = torch.cat(logprobs, 1)
        for place, row in enumerate(ids.tolist()):
            reward = sum(token % 4 == 0 for token in row[len(prompt) :]) / LENGTH
            action = (False,) * len(prompt) + (True,) * LENGTH
            sampled = (math.nan,) * len(prompt) + tuple(known[place].tolist())
            samples.append(Sample(tuple(row), action, str(group), f"{seed}/{group}/{place}", reward, sampled))
    return samples


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.network.named_parameters() if weight.requires_grad}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# It learns


@pytest.mark.parametrize(
    "policy",
    [
        {"algorithm": "grpo"},
        {"algorithm": "grpo", "loss_type": "grpo", "scale_rewards": "none", "num_iterations": 2, "temperature": 0.9},
        {"algorithm": "ppo", "num_iterations": 2, "value_learning_rate": 0.05},
    ],
    ids=["grpo", "dr-grpo", "ppo"],
)
def test_a_toy_task_is_learned_from_scratch(base, tmp_path, policy):
    trainer = made(base, tmp_path, TrainSettings(learning_rate=1e-2, lora=None, warmup_ratio=0.0), **policy)
    rewards = [trainer.update(draw(trainer, seed, 32))["reward"] for seed in range(40)]
    assert sum(rewards[:3]) / 3 < 0.4, "a fourth by chance"
    assert sum(rewards[-3:]) / 3 > 0.9


def test_the_value_head_learns_what_will_come(base, tmp_path):
    """From two prompts, one always rewarded and one never, in spite of a policy that cannot change that."""
    settings = TrainSettings(learning_rate=1e-6, lora=Lora(r=2), warmup_ratio=0.0)
    trainer = made(
        base, tmp_path, settings, algorithm="ppo", value_learning_rate=0.05, cliprange_value=10.0, vf_coef=1.0, detach_value=True
    )
    action = (False, False, True, True)
    samples = [Sample((1, first, 30, 31 + n), action, "", f"{first}/{n}", float(first == 20)) for first in (20, 40) for n in range(4)]
    seen = [trainer.update(samples)["explained_variance"] for _ in range(30)]
    assert seen[0] == 0.0, "it starts at zero everywhere"
    assert seen[-1] > 0.9


# It repeats itself


@pytest.mark.parametrize("policy", [{}, {"algorithm": "ppo", "num_iterations": 2}], ids=["grpo", "ppo"])
def test_killed_anywhere_it_comes_to_the_same_bits(base, tmp_path, policy):
    settings = TrainSettings(learning_rate=1e-2, lora=Lora(r=4, lora_dropout=0.1), weight_decay=0.01)
    batches = [draw(made(base, tmp_path / "source"), seed, 6, (PROMPT, (1, 50, 51))) for seed in range(4)]
    whole = made(base, tmp_path / "whole", settings, total_updates=4, **policy)
    report = [whole.update(batch) for batch in batches]
    again = made(base, tmp_path / "again", settings, total_updates=4, **policy)
    torch.manual_seed(999)  # the caller's random numbers change nothing
    repeated = [again.update(batch) for batch in batches]
    assert equal(weights(whole), weights(again))
    assert [facts["loss"] for facts in report] == [facts["loss"] for facts in repeated]

    for number, batch in enumerate(batches):  # a new process for each update
        part = made(base, tmp_path / "parts", settings, total_updates=4, **policy)
        assert part.restore() == ({"round": number} if number else None)
        assert part.updates == number
        part.update(batch)
        part.checkpoint({"round": number + 1})
    assert equal(weights(whole), weights(part))
    other = made(base, tmp_path / "other", settings, seed=1, total_updates=4, **policy)
    other.update(batches[0])
    assert not equal(weights(whole), weights(other))


def test_a_checkpoint_is_whole_or_not_there(base, tmp_path, monkeypatch):
    trainer = made(base, tmp_path)
    trainer.update(draw(trainer, 0))
    trainer.checkpoint({"good": True})
    kept = weights(trainer)
    trainer.update(draw(trainer, 1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match="No space left"):
            trainer.checkpoint({"good": False})
    (tmp_path / ".checkpoint-00000007.1.part").mkdir()  # killed while it wrote
    fresh = made(base, tmp_path)
    assert fresh.restore() == {"good": True}
    assert equal(weights(fresh), kept)
    trainer.checkpoint({"last": 1})
    trainer.checkpoint({"last": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"], "the ones before are gone"
    assert made(base, tmp_path).restore() == {"last": 2}
    (tmp_path / "checkpoint-00000002").rename(tmp_path / ".checkpoint-00000002.1.old")  # killed between two renames
    assert made(base, tmp_path).restore() == {"last": 2}


def test_a_checkpoint_of_something_else_is_refused(base, tmp_path):
    made(base, tmp_path).checkpoint({})
    with pytest.raises(InputError, match="seed 0, and now it is 1"):
        made(base, tmp_path, seed=1).restore()
    with pytest.raises(InputError, match="policy"):
        made(base, tmp_path, beta=0.1).restore()
    with pytest.raises(InputError, match="settings"):
        made(base, tmp_path, TrainSettings()).restore()
    assert made(base, tmp_path, max_tokens_per_micro_batch=99, share_prefixes=False).restore() == {}, "what changes no result may change"
    next(tmp_path.glob("checkpoint-*/state.pt")).write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        made(base, tmp_path).restore()


# What it reports, and what goes wrong


def test_the_report_by_hand(base, tmp_path):
    trainer = made(base, tmp_path, share_prefixes=False, beta=0.1)
    samples = [
        Sample((1, 5, 6, 7), (False, False, True, True), "a", "1", 1.0),
        Sample((1, 5, 8), (False, False, True), "a", "2", 0.0),
        Sample((1, 5, 8), (False, False, True), "b", "3", 1.0),
    ]
    facts = trainer.update(samples)
    assert (facts["episodes"], facts["tokens"], facts["steps"], facts["micro_batches"]) == (3, 4, 1, 1)
    assert facts["tokens_computed"] == 3 * 3, "three rows, padded to three tokens"
    assert facts["reward"] == pytest.approx(2 / 3)
    assert (facts["ratio"], facts["ratio_max"], facts["clip_fraction"], facts["kl"]) == (1, 1, 0, 0)
    assert facts["entropy"] == pytest.approx(math.log(104), abs=0.1), "a fresh model knows nothing"
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert facts["loss"] == pytest.approx(-(2 * advantage - advantage) / 4, abs=1e-6)
    assert {"seconds", "peak_memory_bytes", "grad_norm", "learning_rate", "advantage_mean"} <= facts.keys()
    assert facts["peak_memory_bytes"] > 1e8
    assert trainer.update(samples)["kl"] > 0, "it has moved away from the base"


def test_the_divergence_is_from_the_base(base, tmp_path):
    trainer = made(base, tmp_path / "a")
    trainer.update(draw(trainer, 0))
    adapter = trainer.save_adapter(tmp_path / "adapters", {})
    later = made(base, tmp_path / "b", adapter=adapter, beta=0.1)
    assert later.update(draw(later, 1))["kl"] > 1e-4


def test_full_weights_have_a_base_beside_them(base, tmp_path):
    settings = TrainSettings(lora=None, learning_rate=1e-3, warmup_ratio=0.0)
    trainer = made(base, tmp_path, settings, beta=0.1)
    before = load_causal_lm(base).state_dict()
    samples = draw(trainer, 0)
    assert trainer.update(samples)["kl"] == pytest.approx(0, abs=1e-7)
    assert trainer.update(samples)["kl"] > 1e-4
    assert equal(before, dict(trainer._reference.language_model.state_dict()))


def test_nothing_to_learn_leaves_the_weights(base, tmp_path):
    trainer = made(base, tmp_path)
    before = weights(trainer)
    samples = [Sample((1, 5, 6 + n), (False, True, True), "a", str(n), 0.5) for n in range(4)]
    facts = trainer.update(samples)
    assert (facts["steps"], facts["tokens"], facts["reward_std"]) == (0, 8, 0)
    assert equal(before, weights(trainer))
    assert trainer.updates == 1


def test_samples_without_a_signal_cost_nothing(base, tmp_path):
    """A group of one reward has no gradient, so it is not computed, but its tokens count in the mean."""
    trainer = made(base, tmp_path, share_prefixes=False)
    same = [Sample((1, 9, 9, 9), (False, True, True, True), "b", f"same{n}", 1.0) for n in range(2)]
    mixed = [Sample((1, 5, 6 + n), (False, True, True), "a", str(n), float(n)) for n in range(2)]
    facts = trainer.update([*same, *mixed])
    assert (facts["tokens"], facts["tokens_computed"]) == (10, 4)


def test_bad_samples(base, tmp_path):
    trainer = made(base, tmp_path)
    with pytest.raises(InputError, match="no samples"):
        trainer.update([])
    with pytest.raises(InputError, match=r"1025 tokens, and the model's context is 1024"):
        trainer.update([Sample((1,) * 1025, (False,) + (True,) * 1024, "a", "1", 1.0)])
    with pytest.raises(InputError, match="no logprobs"):
        trainer.update([Sample((1, 2), (False, True), "a", "1", 1.0)], foreign=True)


@pytest.mark.parametrize("bad", ["weights", "loss"])
def test_a_diverging_step_is_not_applied(base, tmp_path, monkeypatch, bad):
    trainer = made(base, tmp_path)
    samples = draw(trainer, 0)
    trainer.update(samples)
    before, steps = weights(trainer), trainer.steps
    if bad == "weights":
        next(trainer.network.language_model.model.layers[0].input_layernorm.parameters()).data.fill_(math.nan)
    else:
        scale = 1e6
        losses = trainer_module.policy_losses
        monkeypatch.setattr(trainer_module, "policy_losses", lambda *given: scaled(losses(*given), scale))
    with pytest.raises(Diverged, match="lower learning_rate"):
        trainer.update(draw(made(base, tmp_path), 1))
    assert equal(before, weights(trainer))
    assert trainer.steps == steps


def scaled(losses, factor):
    from dataclasses import replace

    return replace(losses, loss=losses.loss * factor + factor)


def test_where_memory_runs_out_micro_batches_are_halved(base, tmp_path, monkeypatch):
    plain = made(base, tmp_path / "plain", share_prefixes=False)
    samples = draw(plain, 0)
    plain.update(samples)
    poor = made(base, tmp_path / "poor", share_prefixes=False)
    forward, refused = poor.network.forward, []

    def tight(batch):
        if batch.ids.numel() > 40:
            refused.append(batch.ids.numel())
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return forward(batch)

    monkeypatch.setattr(poor.network, "forward", tight)
    facts = poor.update(samples)
    assert refused, "it was tried"
    assert facts["micro_batches"] == 6, "16 rows of 9 tokens, 32 tokens at a time: three rows each"
    for name, weight in weights(plain).items():
        assert torch.allclose(weight, weights(poor)[name], atol=1e-5)
    poor.checkpoint({})
    again = made(base, tmp_path / "poor", share_prefixes=False)
    again.restore()
    assert again._max_tokens == poor._max_tokens < 1024, "how it is split decides the last bits"
    monkeypatch.setattr(poor.network, "forward", lambda batch: tight(batch) if len(refused) < 0 else (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(InputError, match="not enough memory even for one sample"):
        poor.update(samples)


def test_other_errors_are_not_taken_for_a_lack_of_memory(base, tmp_path, monkeypatch):
    trainer = made(base, tmp_path)
    monkeypatch.setattr(trainer.network, "forward", lambda batch: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.update([Sample((1, 5, 6 + n), (False, True, True), "a", str(n), float(n)) for n in range(2)])


# The sampler may be another engine


def test_the_correction_is_on_where_another_engine_sampled(base, tmp_path):
    trainer = made(base, tmp_path, importance_sampling_clip_max=1.5)
    samples = draw(trainer, 0)
    assert "importance" not in trainer.update(samples)
    on = made(base, tmp_path / "on", importance_sampling_correction=True)
    assert on.update(draw(on, 0))["importance"] == pytest.approx(1.0, abs=1e-5), "sampled by these very weights"
    off = made(base, tmp_path / "off", importance_sampling_correction=False)
    assert "importance" not in off.update(samples, foreign=True)
    shifted = [sample.__class__(*vars(sample).values()) for sample in samples]
    fresh = made(base, tmp_path / "fresh", importance_sampling_clip_max=1.5)
    for sample in shifted:  # the sampler thought each token half as likely
        object.__setattr__(sample, "sampled_logprobs", tuple(value - math.log(2) for value in sample.sampled_logprobs))
    assert fresh.update(shifted, foreign=True)["importance"] == pytest.approx(1.5)


# What was learned


@pytest.mark.parametrize("lora", [Lora(r=4), None], ids=["lora", "full"])
def test_what_was_learned_is_saved_and_gone_on_from(base, tmp_path, lora):
    settings = TrainSettings(learning_rate=1e-2, lora=lora)
    trainer = made(base, tmp_path / "run", settings)
    trainer.update(draw(trainer, 0))
    adapter = trainer.save_adapter(tmp_path / "adapters", {"learner": "rlvr"})
    assert (adapter.kind, adapter.base, adapter.facts) == ("lora" if lora else "full", base.base_id, {"learner": "rlvr"})
    later = made(base, tmp_path / "later", settings, adapter=adapter)
    assert equal(weights(trainer), weights(later))
    assert equal(weights(later), {name: weight.detach() for name, weight in later.network.named_parameters() if weight.requires_grad})
    later.update(draw(later, 1))
    assert later.save_adapter(tmp_path / "adapters", {}).id != adapter.id
    with pytest.raises(InputError, match="of kind " + adapter.kind):
        made(base, tmp_path / "x", TrainSettings(lora=None if lora else Lora()), adapter=adapter)


def test_lora_leaves_the_base_alone(base, tmp_path):
    trainer = made(base, tmp_path, TrainSettings(gradient_checkpointing=True, learning_rate=1e-2))
    assert trainer.update(draw(trainer, 0))["grad_norm"] > 0
    with trainer.network.without_adapter(), torch.no_grad():
        inside = trainer.network.language_model(torch.tensor([[1, 2, 3]])).logits
    with torch.no_grad():
        changed = trainer.network.language_model(torch.tensor([[1, 2, 3]])).logits
        plain = load_causal_lm(base)(torch.tensor([[1, 2, 3]])).logits
    assert torch.allclose(inside, plain, atol=1e-6)
    assert not torch.allclose(changed, plain, atol=1e-4)


@pytest.mark.parametrize("lora", [Lora(r=4), None], ids=["lora", "full"])
def test_bfloat16_learns_with_weights_of_float32(base, tmp_path, lora):
    trainer = made(base, tmp_path, TrainSettings(learning_rate=1e-2, lora=lora, dtype="bfloat16"))
    assert trainer.shares_prefixes
    assert {weight.dtype for weight in weights(trainer).values()} == {torch.float32}
    full = made(base, tmp_path, TrainSettings(learning_rate=1e-2, lora=lora))
    samples = draw(full, 0)
    assert trainer.update(samples)["grad_norm"] == pytest.approx(full.update(samples)["grad_norm"], rel=0.05)


def test_settings_that_cannot_be(base, tmp_path):
    with pytest.raises(InputError, match="float16"):
        made(base, tmp_path, TrainSettings(dtype="float16"))
    with pytest.raises(InputError, match="target_modules"):
        made(base, tmp_path, TrainSettings(lora=Lora(target_modules=("nonsense",))))


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    adapter = made(base, tmp_path / "a").save_adapter(tmp_path / "adapters", {})
    other = find_base(str(make_toy(tmp_path / "other", seed=1, width=32)))
    with pytest.raises(InputError, match="trained on"):
        made(other, tmp_path / "b", adapter=adapter)


def test_the_schedule_by_hand():
    settings = TrainSettings(warmup_ratio=0.2, lr_scheduler_type="linear")
    assert [schedule(settings, step, 10) for step in (0, 1, 2, 6, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0.125])
    cosine = TrainSettings(warmup_ratio=0.0, lr_scheduler_type="cosine")
    assert [schedule(cosine, step, 4) for step in range(4)] == pytest.approx([1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2])
    assert schedule(TrainSettings(lr_scheduler_type="constant"), 500, 1000) == 1
    assert schedule(settings, 0, None) == 1, "without a total there is nothing to warm up towards"


def test_what_is_kept_of_a_checkpoint_is_readable(base, tmp_path):
    trainer = made(base, tmp_path)
    trainer.update(draw(trainer, 0))
    trainer.checkpoint({"round": 1})
    facts = json.loads((tmp_path / "checkpoint-00000001" / "state.json").read_text())
    assert facts["fingerprint"]["base"] == base.base_id
    assert (facts["updates"], facts["steps"], facts["state"]) == (1, 1, {"round": 1})
    shutil.rmtree(tmp_path / "checkpoint-00000001")
    assert made(base, tmp_path).restore() is None
