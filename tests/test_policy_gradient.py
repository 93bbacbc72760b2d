"""Advantages, weights and losses of the policy gradient: by hand, and beside TRL's GRPO on the same batch."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.training.policy_gradient import (
    PolicyGradient,
    Sample,
    explained_variance,
    gae,
    group_advantages,
    informative,
    token_weights,
    whiten,
)


def sample(group: str, episode: str, reward: float, actions: int = 2) -> Sample:
    return Sample((1, *range(2, 2 + actions)), (False, *[True] * actions), group, episode, reward)


def test_settings_and_samples_need_no_torch():
    code = "import sys, tutelage.training.policy_gradient; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Advantages


def test_group_advantages_by_hand():
    samples = [sample("a", "1", 1.0), sample("a", "2", 0.0), sample("a", "3", 0.0), sample("b", "4", 5.0), sample("b", "5", 3.0)]
    third, root = 1 / 3, math.sqrt(2)
    std_a, std_b = math.sqrt((4 + 1 + 1) / 9 / 2), root
    assert group_advantages(samples, "none") == pytest.approx([2 * third, -third, -third, 1, -1])
    expected = [2 * third / (std_a + 1e-4), -third / (std_a + 1e-4), -third / (std_a + 1e-4), 1 / (std_b + 1e-4), -1 / (std_b + 1e-4)]
    assert group_advantages(samples, "group") == pytest.approx(expected)
    std = math.sqrt(sum((reward - 1.8) ** 2 for reward in (1, 0, 0, 5, 3)) / 4)
    assert group_advantages(samples, "batch")[3] == pytest.approx(1 / (std + 1e-4))


def test_an_episode_counts_once_however_many_samples_it_has():
    whole = [sample("a", "1", 1.0), sample("a", "2", 0.0)]
    cut = [sample("a", "1", 1.0), sample("a", "1", 1.0), sample("a", "1", 1.0), sample("a", "2", 0.0)]
    assert group_advantages(cut)[:3] == pytest.approx([group_advantages(whole)[0]] * 3)
    assert group_advantages(cut, "none") == pytest.approx([0.5, 0.5, 0.5, -0.5]), "not the mean 0.75 of four rows"


def test_groups_without_a_difference_have_no_advantage():
    assert group_advantages([sample("a", "1", 0.7)]).tolist() == [0.0]
    assert group_advantages([sample("a", "1", 2.0), sample("a", "2", 2.0)]).tolist() == [0.0, 0.0]


def test_disagreeing_samples_of_one_episode():
    with pytest.raises(InputError, match="episode 1"):
        group_advantages([sample("a", "1", 1.0), sample("a", "1", 0.0)])
    with pytest.raises(InputError, match="episode 1"):
        group_advantages([sample("a", "1", 1.0), sample("b", "1", 1.0)])


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_rewards_are_finite(reward):
    with pytest.raises(InputError, match="episode 1 on task a"):
        sample("a", "1", reward)


def test_malformed_samples():
    with pytest.raises(ValueError, match="differ in length"):
        Sample((1, 2), (False,), "a", "1", 0.0)
    with pytest.raises(ValueError, match="differ in length"):
        Sample((1, 2), (False, True), "a", "1", 0.0, (0.0,))
    with pytest.raises(ValueError, match="first token"):
        Sample((1, 2), (True, True), "a", "1", 0.0)


@pytest.mark.parametrize(
    ("rewards", "epsilon", "keep"),
    [
        ([1, 1, 1], 0, False),
        ([0, 1], 0, True),
        ([1], 0, False),
        ([], 0, False),
        ([0, 1], 0.5, False),
        ([0, 1], 0.49, True),
        ([0.1] * 3, 0, False),
    ],
)
def test_dynamic_sampling(rewards, epsilon, keep):
    assert informative(rewards, epsilon) is keep


# GAE


def test_gae_by_hand():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    # gamma 0.9, lambda 0.8: deltas 0.9*0.6-0.5=0.04, 0.9*0.7-0.6=0.03, 1-0.7=0.3
    last, middle = 0.3, 0.03 + 0.72 * 0.3
    advantages, returns = gae(rewards, values, 0.9, 0.8)
    assert advantages == pytest.approx([0.04 + 0.72 * middle, middle, last])
    assert returns == pytest.approx(advantages + values)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12), st.floats(0, 1))
def test_gae_at_its_ends(steps, gamma):
    """lambda 0 is the one-step error, lambda 1 the discounted return less the value."""
    rewards, values = (np.array(column) for column in zip(*steps, strict=True))
    following = np.append(values[1:], 0.0)
    assert gae(rewards, values, gamma, 0.0)[0] == pytest.approx(rewards + gamma * following - values)
    to_come = [sum(reward * gamma**later for later, reward in enumerate(rewards[place:])) for place in range(len(rewards))]
    assert gae(rewards, values, gamma, 1.0)[1] == pytest.approx(to_come, abs=1e-9)


def test_whitening():
    assert whiten(np.array([1.0, 2.0, 3.0])) == pytest.approx([-1, 0, 1], abs=1e-6)
    assert whiten(np.array([4.0])).tolist() == [0.0]
    assert whiten(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.zeros(3), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(returns, np.ones(3)))


# What a token weighs


def test_weights_by_hand():
    samples = [sample("a", "1", 1.0, 2), sample("a", "1", 1.0, 4), sample("a", "2", 0.0, 3), sample("a", "3", 0.0, 0)]
    assert token_weights(samples, "dapo", 100) == pytest.approx([1 / 9] * 4)
    assert token_weights(samples, "bnpo", 100) == pytest.approx([1 / 9] * 4)
    assert token_weights(samples, "dr_grpo", 100) == pytest.approx([1 / 200] * 4)
    assert token_weights(samples, "grpo", 100)[:3] == pytest.approx([1 / 12, 1 / 12, 1 / 6]), "episode 1 has six tokens in two samples"


def test_settings():
    assert PolicyGradient(epsilon_high=0.28).upper == 0.28
    assert PolicyGradient().upper == 0.2
    assert not PolicyGradient().kl_in_loss
    assert PolicyGradient(beta=0.1, kl_in_reward=True).kl_in_loss, "only PPO has rewards of tokens"
    assert not PolicyGradient(beta=0.1, kl_in_reward=True, algorithm="ppo").kl_in_loss


# Losses: torch from here on


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="extra `train` is not installed")


@pytest.mark.torch
def test_clipping_by_hand(torch):
    from tutelage.training.policy_loss import clipped, surrogate_loss

    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.25])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0, 1.0])
    # min(rA, clip A): 1.2*2, 1.5*-2, 0.5*2, 0.8*-2, 1.1, 1.2
    assert surrogate_loss(ratio, advantages, 0.2, 0.2).tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6, -1.1, -1.2])
    assert surrogate_loss(ratio, advantages, 0.2, 0.28).tolist()[-1] == pytest.approx(-1.25), "clip-higher"
    assert clipped(ratio, advantages, 0.2, 0.2).tolist() == [True, False, False, True, False, True]


@pytest.mark.torch
def test_value_loss_and_k3_by_hand(torch):
    from tutelage.training.policy_loss import k3, value_loss

    values, old, returns = torch.tensor([1.0, 0.1, 3.0]), torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    # clipped values 0.2, 0.1, 2.2; errors (0, .64), (.81, .81), (9, 4.84)
    assert value_loss(values, old, returns, 0.2).tolist() == pytest.approx([0.32, 0.405, 4.5])
    assert k3(torch.log(torch.tensor([0.5, 0.2])), torch.log(torch.tensor([0.25, 0.2]))).tolist() == pytest.approx(
        [0.5 - math.log(0.5) - 1, 0.0]
    )


@pytest.mark.torch
@pytest.mark.parametrize(
    ("mode", "low", "high", "expected"),
    [
        ("token_truncate", None, 3.0, [3.0, 0.5, 1.0, 2.0, 1.0]),
        ("token_truncate", 0.8, None, [4.0, 0.8, 1.0, 2.0, 1.0]),
        ("token_mask", 0.8, 3.0, [0.0, 0.0, 1.0, 2.0, 1.0]),
        ("sequence_truncate", None, 1.5, [1.5, 1.5, 1.5, 1.5, 1.0]),
        ("sequence_mask", None, 1.5, [0.0, 0.0, 0.0, 0.0, 1.0]),
        ("sequence_mask", None, 3.0, [2.0, 2.0, 2.0, 2.0, 1.0]),
        ("sequence_truncate", None, None, [2.0, 2.0, 2.0, 2.0, 1.0]),
    ],
)
def test_importance_by_hand(torch, mode, low, high, expected):
    from tutelage.training.policy_loss import importance_ratio

    difference = torch.tensor([4.0, 0.5, 1.0, 2.0, float("nan")]).log()
    found = importance_ratio(difference, torch.tensor([7, 7, 3, 3, 5]), mode, low, high)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.torch
def test_ppo_beside_a_plain_computation(torch):
    """The loss of a whole batch, from what the network gave, against a loop over its tokens."""
    from tutelage.training.logprobs import TokenScores
    from tutelage.training.policy_batch import Batch
    from tutelage.training.policy_loss import policy_losses

    rng = np.random.default_rng(0)
    samples = [sample("a", "1", 1.0, 3), sample("a", "1", 1.0, 2), sample("b", "2", -0.5, 4)]
    policy = PolicyGradient(algorithm="ppo", loss_type="grpo", gamma=0.9, lam=0.8, beta=0.3, kl_in_reward=True, vf_coef=0.4)
    old, values, reference, new, now = (rng.normal(size=9) for _ in range(5))
    measured = {"old": old, "values": values, "reference": reference}
    targets, facts = Batch.of(samples, None).targets(policy, measured, foreign=False)
    scores = TokenScores(*(torch.tensor(part, dtype=torch.float32) for part in (new, new, now * 0, now)))
    losses = policy_losses(scores, targets, policy)

    advantages, returns = np.zeros(9), np.zeros(9)
    for start, end, reward in ((0, 5, 1.0), (5, 9, -0.5)):
        running = 0.0
        for t in reversed(range(start, end)):
            own = -0.3 * (old[t] - reference[t]) + (reward if t == end - 1 else 0.0)
            ahead = values[t + 1] if t + 1 < end else 0.0
            running = own + 0.9 * ahead - values[t] + 0.9 * 0.8 * running
            advantages[t], returns[t] = running, running + values[t]
    spread = math.sqrt(sum((a - advantages.mean()) ** 2 for a in advantages) / 8)
    total = 0.0
    for t in range(9):
        a, rho = (advantages[t] - advantages.mean()) / spread, math.exp(new[t] - old[t])
        kept = values[t] + min(max(now[t] - values[t], -0.2), 0.2)
        policy_part = -min(rho * a, min(max(rho, 0.8), 1.2) * a)
        value_part = 0.5 * max((now[t] - returns[t]) ** 2, (kept - returns[t]) ** 2)
        total += (policy_part + 0.4 * value_part) / (2 * (5 if t < 5 else 4))
    assert losses.loss.item() == pytest.approx(total, abs=1e-5)
    assert facts["explained_variance"] == pytest.approx(1 - np.var(returns - values) / np.var(returns))
    assert facts["episodes"] == 2
    assert facts["reward"] == 0.25


# TRL on the same batch

PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 8], [9, 10], [9, 10]]
COMPLETIONS = [[20, 21, 22, 23, 24], [20, 30], [40, 41, 42], [43, 44, 45, 46]]
OBSERVED = [[0, 0, 1, 1, 0], [0, 0], [0, 0, 0], [0, 1, 0, 0]]  # results of tools: no loss
REWARDS = [1.0, 0.25, 0.0, 2.0]


def as_samples(sampled=None):
    made = []
    for place, (prompt, completion, observed) in enumerate(zip(PROMPTS, COMPLETIONS, OBSERVED, strict=True)):
        action = (*[False] * len(prompt), *[not tool for tool in observed])
        known = None if sampled is None else (*[math.nan] * len(prompt), *sampled[place][: len(completion)].tolist())
        made.append(Sample((*prompt, *completion), action, str(prompt), str(place), REWARDS[place], known))
    return made


@pytest.fixture(scope="module")
def toy(torch, tmp_path_factory):
    from transformers import AutoModelForCausalLM

    from toy_weights import make_toy

    folder = make_toy(tmp_path_factory.mktemp("toy"), width=32)
    return lambda: AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def trl_trainer(toy, tmp_path_factory):
    """TRL's trainer around the toy; only its `_compute_loss` is called."""
    pytest.importorskip("trl", reason="extra `train` is not installed")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from toy_weights import toy_tokenizer

    folder = tmp_path_factory.mktemp("trl")
    config = GRPOConfig(
        str(folder), report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=2, temperature=0.7,
        max_completion_length=9, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "a"}] * 4)
    trainer = GRPOTrainer(toy(), lambda completions, **_: [0.0] * len(completions), config, data, processing_class=toy_tokenizer())
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_gradients(torch, trainer, policy, old, reference, ratio):
    """(loss, gradients by name) of TRL's `_compute_loss`."""
    width = max(map(len, COMPLETIONS))
    left, right = max(map(len, PROMPTS)), width
    pad = lambda rows, size, before: torch.tensor(  # noqa: E731
        [([0] * (size - len(row)) + row) if before else (row + [0] * (size - len(row))) for row in rows]
    )
    mask = pad([[1] * len(row) for row in COMPLETIONS], right, False)
    tools = pad([[1 - tool for tool in row] for row in OBSERVED], right, False)
    inputs = {
        "prompt_ids": pad(PROMPTS, left, True),
        "prompt_mask": pad([[1] * len(row) for row in PROMPTS], left, True),
        "completion_ids": pad(COMPLETIONS, right, False),
        "completion_mask": mask,
        "tool_mask": tools,
        "advantages": torch.tensor(group_advantages(as_samples()), dtype=torch.float32),
        "num_items_in_batch": (mask * tools).sum(),
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "importance_sampling_ratio": ratio,
    }
    trainer.loss_type, trainer.beta = policy.loss_type, policy.beta
    trainer.epsilon_low, trainer.epsilon_high = policy.epsilon, policy.upper
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = ratio is not None, True
    trainer.args.use_bias_correction_kl = policy.use_bias_correction_kl
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}


def our_gradients(torch, model, policy, folder, old, reference, samples, foreign):
    from tutelage.training.policy_batch import Batch
    from tutelage.training.settings import TrainSettings
    from tutelage.training.trainer import PolicyTrainer

    trainer = PolicyTrainer(model, TrainSettings(lora=None), policy, folder)
    measured = {} if reference is None else {"reference": of_actions(reference)}
    batch = Batch.of(samples, None)
    targets, _ = batch.targets(policy, measured, foreign=foreign)
    targets.old = None if old is None else torch.tensor(of_actions(old))
    facts = trainer._accumulate(batch, targets, range(len(samples)))
    return facts, {name.removeprefix("model."): weight.grad for name, weight in trainer.network.named_parameters()}


def of_actions(padded):
    """(B, T) as TRL has it -> the action tokens one after another."""
    rows = [row[: len(tools)][np.array(tools) == 0] for row, tools in zip(padded.numpy(), OBSERVED, strict=True)]
    return np.concatenate(rows)


CASES = [
    *[(f"{kind} on policy", {"loss_type": kind}) for kind in ("grpo", "dapo", "bnpo", "dr_grpo")],
    *[(f"{kind} off policy", {"loss_type": kind}) for kind in ("grpo", "dapo", "bnpo", "dr_grpo")],
    ("clip-higher off policy", {"epsilon": 0.1, "epsilon_high": 0.4}),
    ("kl on policy", {"beta": 0.3}),
    ("kl off policy", {"beta": 0.3, "loss_type": "grpo"}),
    ("plain kl off policy", {"beta": 0.3, "use_bias_correction_kl": False}),
    ("token_truncate off policy", {"importance_sampling_mode": "token_truncate", "importance_sampling_clip_max": 1.3}),
    ("token_mask on policy", {"importance_sampling_mode": "token_mask", "importance_sampling_clip_max": 1.3}),
    ("sequence_mask on policy", {"importance_sampling_mode": "sequence_mask", "importance_sampling_clip_max": 1.1, "loss_type": "grpo"}),
    ("sequence_truncate on policy", {"importance_sampling_mode": "sequence_truncate", "importance_sampling_clip_max": 1.1}),
]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_loss_and_gradients_equal_those_of_trl(torch, toy, trl_trainer, tmp_path, name, options):
    policy = PolicyGradient(**{"temperature": 0.7, "max_completion_length": 9, "num_iterations": 2, **options})
    width = max(map(len, COMPLETIONS))
    generator = torch.Generator().manual_seed(1)
    noise = lambda: 0.3 * torch.randn(4, width, generator=generator)  # noqa: E731
    own = own_logprobs(torch, toy(), width, policy.temperature)
    old = own + noise() if "off policy" in name else None
    reference = own + noise() if policy.beta else None
    ratio, sampled, foreign = None, None, "importance_sampling_mode" in options
    if foreign:
        # TRL compares logprobs at the temperature of both sides; the sampler's, before temperature, differs by the same amount times it
        difference = noise()
        sampled = own_logprobs(torch, toy(), width, 1.0) - difference * policy.temperature
        ratio = trl_ratio(torch, difference, policy)
    theirs = trl_gradients(torch, trl_trainer, policy, old, reference, ratio)
    facts, gradients = our_gradients(torch, toy(), policy, tmp_path, old, reference, as_samples(sampled), foreign)
    assert facts["loss"] == pytest.approx(theirs[0], abs=1e-5)
    assert set(gradients) == set(theirs[1])
    assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-3, "there is something to compare"
    for weight, gradient in gradients.items():
        assert torch.allclose(gradient, theirs[1][weight], atol=1e-5), weight


def own_logprobs(torch, model, width, temperature):
    """(B, T) of the completions, each computed alone."""
    found = torch.zeros(4, width)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
        found[row, : len(completion)] = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).squeeze(1)
    return found


def trl_ratio(torch, difference, policy):
    """As TRL works its ratio out, before it calls `_compute_loss`."""
    width = difference.shape[1]
    tools = torch.tensor([[1 - tool for tool in row] + [0] * (width - len(row)) for row in OBSERVED])
    difference = difference * tools
    mode, high = policy.importance_sampling_mode, policy.importance_sampling_clip_max
    ratio = (difference.sum(-1, keepdim=True) if mode.startswith("sequence") else difference).exp()
    ratio = ratio.clamp(max=high) if mode.endswith("truncate") else ratio.masked_fill(ratio > high, 0.0)
    assert not torch.equal(ratio, difference.exp()), "something is cut off"
    return ratio
