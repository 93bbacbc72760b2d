"""Shared beginnings computed once: by hand, and against every sample computed alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

import numpy as np  # noqa: E402

from tutelage.errors import InputError  # noqa: E402
from tutelage.training.logprobs import score_tokens  # noqa: E402
from tutelage.training.output_layer import OutputLayer  # noqa: E402
from tutelage.training.packing import as_micro_batch, gather_rows, pack_rows  # noqa: E402
from tutelage.training.policy_gradient import PolicyGradient, Sample  # noqa: E402
from tutelage.training.policy_network import PolicyNetwork  # noqa: E402
from tutelage.training.settings import TrainSettings  # noqa: E402
from tutelage.training.splitting import Work  # noqa: E402
from tutelage.training.trainer import PolicyTrainer  # noqa: E402


def sample(prompt, completion, *, episode="", observed=(), reward=0.0):
    action = [False] * len(prompt) + [place not in observed for place in range(len(completion))]
    return Sample((*prompt, *completion), tuple(action), "task", episode or str(completion), reward)


def rows_of(samples, *, max_tokens=10**6, share=True, work=None):
    return pack_rows(samples, range(len(samples)), work=work or Work(), max_tokens=max_tokens, share=share)


# By hand


def test_a_tree_by_hand():
    samples = [sample([1, 2], [3, 4, 9]), sample([1, 2], [5, 9])]
    (row,) = rows_of(samples)
    # inputs end before the last action token: 1 2 3 4 and 1 2 5
    assert row.ids.tolist() == [1, 2, 3, 4, 5]
    assert row.parents.tolist() == [-1, 0, 1, 2, 1]
    assert row.depths.tolist() == [0, 1, 2, 3, 2]
    assert {number: places.tolist() for number, places in row.places.items()} == {0: [0, 1, 2, 3], 1: [0, 1, 4]}
    assert row.sees().astype(int).tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    batch = as_micro_batch([row], samples, [0, 3])
    assert batch.source.tolist() == [1, 2, 3, 1, 4], "the last token of the prompt predicts the first of both"
    assert batch.target.tolist() == [3, 4, 9, 5, 9]
    assert batch.token.tolist() == [0, 1, 2, 3, 4]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2]]


def test_a_later_turn_that_begins_with_an_earlier_one_is_a_chain():
    samples = [sample([1, 2], [3, 4]), sample([1, 2, 3, 4, 5], [6, 7])]
    (row,) = rows_of(samples)
    assert not row.branches
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert as_micro_batch([row], samples, [0, 2]).mask is None


def test_samples_that_share_little_stay_apart():
    """Joining saves the tokens in common and costs attention over both."""
    samples = [sample([1, 2], [3, 4, 5, 9]), sample([1, 7], [3, 4, 5, 9])]
    assert len(rows_of(samples, work=Work(1.0, 0.0))) == 1
    assert len(rows_of(samples, work=Work(1.0, 1.0))) == 2
    assert len(rows_of(samples, share=False)) == 2
    assert len(rows_of(samples, max_tokens=8)) == 2
    assert len(rows_of([sample([1, 2], [3, 4]), sample([5, 6], [3, 4])])) == 2, "nothing in common, nothing saved"


def test_like_lengths_go_together_within_the_budget():
    samples = [sample([1], [2] * length, episode=str(length)) for length in (3, 9, 8, 2)]
    groups = gather_rows(rows_of(samples, share=False), max_tokens=18)
    assert [[len(row) for row in group] for group in groups] == [[9, 8], [3, 2]]
    assert [len(group) for group in gather_rows(rows_of(samples, share=False), max_tokens=1)] == [1] * 4, "a longer sample goes alone"


def test_a_sample_without_an_action_is_left_out():
    assert rows_of([Sample((1, 2, 3), (False,) * 3, "", "", 0.0)]) == []


tokens = st.lists(st.integers(1, 3), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=8), st.integers(1, 30), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_every_action_token_stands_once_behind_its_own_past(pairs, max_tokens, share, per_pair):
    samples = [sample(prompt, completion, episode=str(number)) for number, (prompt, completion) in enumerate(pairs)]
    first = np.cumsum([0] + [len(completion) for _, completion in pairs]).tolist()
    rows = rows_of(samples, max_tokens=max_tokens, share=share, work=Work(1.0, per_pair))
    seen: list[int] = []
    for group in gather_rows(rows, max_tokens):
        batch = as_micro_batch(group, samples, first)
        assert len(group) == 1 or batch.ids.numel() <= max_tokens
        for row in group:
            for number, places in row.places.items():
                assert row.ids[places].tolist() == list(samples[number].ids[:-1])
                assert row.depths[places].tolist() == list(range(len(places)))
                assert np.flatnonzero(row.sees()[places[-1]]).tolist() == sorted(places.tolist())
        seen += batch.token.tolist()
    assert sorted(seen) == list(range(first[-1]))


# Logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_and_their_gradients_are_those_of_all_logits(temperature):
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 5, requires_grad=True), torch.nn.Linear(5, 11)
    targets, pull = torch.randint(11, (7,)), torch.randn(7)
    scores = score_tokens(hidden, OutputLayer(head.weight, head.bias), targets, temperature=temperature)
    (scores.logprobs * pull).sum().backward()
    got = hidden.grad.clone(), head.weight.grad.clone(), head.bias.grad.clone()
    hidden.grad = head.weight.grad = head.bias.grad = None
    logits = head(hidden)
    whole = (logits / temperature).log_softmax(-1)
    (whole[range(7), targets] * pull).sum().backward()
    assert torch.allclose(scores.logprobs, whole[range(7), targets], atol=1e-6)
    assert torch.allclose(scores.plain, logits.log_softmax(-1)[range(7), targets], atol=1e-6)
    assert torch.allclose(scores.entropy, -(whole.exp() * whole).sum(-1), atol=1e-5)
    assert not scores.plain.requires_grad
    assert not scores.entropy.requires_grad
    for mine, theirs in zip(got, (hidden.grad, head.weight.grad, head.bias.grad), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


# Against plain rows


def tiny(kind: str, **changes):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **changes
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


PROMPT = list(range(10, 22))
SAMPLES = [
    sample(PROMPT, [1, 2, 3, 4, 5], episode="a", reward=1.0),
    sample(PROMPT, [1, 2, 6], episode="b", reward=0.0),
    sample(PROMPT, [1, 2, 6], episode="c", reward=0.5),  # the same tokens as another
    sample(PROMPT, [7, 8, 30, 31, 9, 2], episode="d", observed=(2, 3), reward=0.0),  # a tool's result
    sample([*PROMPT, 7, 8, 40], [5, 5], episode="d", reward=0.0),  # its second turn, prompted anew
    sample([33, 34], [1, 2, 3], episode="e", reward=2.0),  # another prompt
]


def gradients(model, folder, **options):
    trainer = PolicyTrainer(model, TrainSettings(lora=None), PolicyGradient(**options), folder)
    from tutelage.training.policy_batch import Batch

    batch = Batch.of(SAMPLES, None)
    targets, _ = batch.targets(trainer.policy, {}, foreign=False)
    facts = trainer._accumulate(batch, targets, range(len(SAMPLES)))
    return trainer, facts, torch.cat([weight.grad.flatten() for weight in trainer.network.parameters()]), targets.old


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_packed_equals_padded_equals_alone(kind, attention, tmp_path):
    def made(**options):
        return gradients(tiny(kind, attn_implementation=attention), tmp_path, **options)

    packed, apart, alone = made(), made(share_prefixes=False), made(share_prefixes=False, max_tokens_per_micro_batch=1)
    assert packed[0].shares_prefixes
    assert packed[1]["tokens_computed"] < apart[1]["tokens_computed"]
    assert (packed[1]["micro_batches"], alone[1]["micro_batches"]) == (2, 6)
    assert packed[2].abs().max() > 1e-3
    for other in (apart, alone):
        assert torch.allclose(packed[3], other[3], atol=1e-5), "logprobs"
        assert torch.allclose(packed[2], other[2], atol=1e-5), "gradients"
        assert packed[1]["loss"] == pytest.approx(other[1]["loss"], abs=1e-6)
        assert packed[1]["entropy"] == pytest.approx(other[1]["entropy"], abs=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_nothing_depends_on_how_a_batch_is_split(loss_type, tmp_path):
    runs = [gradients(tiny("Llama"), tmp_path, max_tokens_per_micro_batch=size, loss_type=loss_type) for size in (10**4, 30, 20, 1)]
    assert len({run[1]["micro_batches"] for run in runs}) > 2
    for run in runs[1:]:
        assert torch.allclose(run[2], runs[0][2], atol=1e-5)
        assert run[1]["loss"] == pytest.approx(runs[0][1]["loss"], abs=1e-6)


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    plain = gradients(tiny("Llama"), tmp_path)[2]
    model = tiny("Llama")
    trainer = PolicyTrainer(model, TrainSettings(lora=None, gradient_checkpointing=True), PolicyGradient(), tmp_path)
    assert trainer.network.language_model.is_gradient_checkpointing
    from tutelage.training.policy_batch import Batch

    batch = Batch.of(SAMPLES, None)
    targets, _ = batch.targets(trainer.policy, {}, foreign=False)
    trainer._accumulate(batch, targets, range(len(SAMPLES)))
    assert torch.allclose(torch.cat([weight.grad.flatten() for weight in model.parameters()]), plain, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "changes", "shares"),
    [
        ("Mistral", {"sliding_window": 8}, False),
        ("Mistral", {"sliding_window": None}, True),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, False),
        ("Qwen3", {}, True),
    ],
)
def test_architectures_that_cannot_share_are_told_from_those_that_can(kind, changes, shares, tmp_path):
    model = tiny(kind, **changes)
    assert PolicyNetwork(model).shares_soundly() is shares
    trainer = PolicyTrainer(model, TrainSettings(), PolicyGradient(), tmp_path)
    assert trainer.update(SAMPLES)["grad_norm"] > 0, "plain rows all the same"


def test_an_attention_without_masks_of_our_own_does_not_share():
    model = tiny("Llama")
    model.config._attn_implementation = "flash_attention_2"
    assert PolicyNetwork(model).shares_soundly() is False


def test_models_that_change_their_logits_are_refused(tmp_path):
    model = tiny("Llama")
    own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: own(hidden) + 1.0
    with pytest.raises(InputError, match="LlamaForCausalLM changes its logits"):
        PolicyTrainer(model, TrainSettings(), PolicyGradient(), tmp_path)
