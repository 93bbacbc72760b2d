"""What models do to their logits, and what learns in their output layers, reaches the losses."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")

from tutelage.errors import InputError  # noqa: E402
from tutelage.training.batches import IGNORED, label_logprobs, token_logprobs  # noqa: E402
from tutelage.training.logprobs import score_tokens  # noqa: E402
from tutelage.training.output_layer import OutputLayer, check_output, known_output, scale_and_softcap  # noqa: E402


def assert_near(found, expected, tolerance=1e-5):
    """As whole tensors, relative to their length."""
    assert found.shape == expected.shape
    assert torch.linalg.norm(found - expected) <= tolerance * torch.linalg.norm(expected)


def tiny(kind, **changes):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 50, **sizes, "pad_token_id": 0, "eos_token_id": 1, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)  # far from flat
    return model


KINDS = [
    ("Llama", {"tie_word_embeddings": True}),
    ("Qwen2", {"tie_word_embeddings": False}),
    ("Gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}),
    ("Cohere", {"logit_scale": 0.25}),
    ("Granite", {"logits_scaling": 8.0}),
    ("HyperCLOVAX", {"logits_scaling": 0.5}),
    ("NanoChat", {"final_logit_softcapping": 3.0}),
    ("Phi", {"num_key_value_heads": 4}),
]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
LABELS = torch.tensor([[IGNORED, 6, IGNORED, 8, 9, 10], [IGNORED, IGNORED, IGNORED, 14, 15, 16]])


def from_logits(model):
    """What `label_logprobs` should give."""
    logits = model(input_ids=IDS).logits.float().log_softmax(-1)[:, :-1]
    wanted = LABELS[:, 1:]
    return torch.where(wanted == IGNORED, 0, logits.gather(2, wanted.clamp(min=0)[..., None]).squeeze(-1))


def learned(model, logprobs):
    """name -> gradient, where there is one."""
    model.zero_grad()
    (logprobs * torch.arange(1, logprobs.numel() + 1).view_as(logprobs)).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_as_its_own(model):
    mine, theirs = label_logprobs(model, {"input_ids": IDS}, LABELS), from_logits(model)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    found, expected = learned(model, mine), learned(model, theirs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(found[name], gradient)
    return found


@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_models_learn_what_their_own_logits_teach(kind, changes):
    model = tiny(kind, **changes)
    check_output(model)
    assert_as_its_own(model)


@pytest.mark.parametrize(("kind", "changes"), KINDS[2:5])
def test_the_policy_gradient_trains_them(kind, changes, tmp_path):
    from tutelage.training.policy_gradient import PolicyGradient, Sample
    from tutelage.training.settings import TrainSettings
    from tutelage.training.trainer import PolicyTrainer

    trainer = PolicyTrainer(tiny(kind, **changes), TrainSettings(), PolicyGradient(temperature=0.8), tmp_path)
    samples = [
        Sample((5, 6, 7, own), (False, False, True, True), group="task", episode=str(own), reward=reward)
        for own, reward in ((8, 1.0), (9, 0.0))
    ]
    assert trainer.update(samples)["grad_norm"] > 0


def test_scales_and_caps_are_read_as_the_models_mean_them():
    found = {kind: scale_and_softcap(tiny(kind, **changes).config) for kind, changes in KINDS[2:7]}
    assert found == {"Gemma2": (1, 2), "Cohere": (0.25, None), "Granite": (0.125, None), "HyperCLOVAX": (0.5, None), "NanoChat": (1, 3)}


def test_models_that_do_something_else_to_their_logits_are_refused():
    model = tiny("Llama")
    own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: own(hidden) + 1.0
    assert not known_output(model)
    with pytest.raises(InputError, match="LlamaForCausalLM changes its logits"):
        check_output(model)


def test_looking_leaves_a_model_as_it_was():
    model = tiny("Llama", attention_dropout=0.5).train()
    before = torch.get_rng_state()
    assert known_output(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


# With peft


def with_lora(model, **changes):
    import peft

    torch.manual_seed(1)
    wanted = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM", **changes}
    return peft.get_peft_model(model, peft.LoraConfig(**wanted))


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_learn_through_the_output_layer(tied):
    names = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    model = with_lora(tiny("Llama", tie_word_embeddings=tied), trainable_token_indices={name: [9, 10, 40] for name in names})
    found = assert_as_its_own(model)
    rows = {name: gradient for name, gradient in found.items() if "trainable_tokens" in name}
    assert len(rows) == len(names)
    last = rows[max(rows, key=lambda name: "lm_head" in name)]
    assert (last.abs().sum(1) > 0).all(), "token 40 is never seen: it learns by the output layer alone"


@pytest.mark.parametrize("changes", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_output_layer_that_learns_beside_lora(changes):
    model = with_lora(tiny("Llama", tie_word_embeddings=False), **changes)
    found = assert_as_its_own(model)
    assert any("lm_head" in name for name in found)


def test_under_lora_the_output_layer_is_frozen():
    found = assert_as_its_own(with_lora(tiny("Llama", tie_word_embeddings=True)))
    assert found
    assert all("lora_" in name for name in found)


def test_the_base_without_its_adapter():
    from tutelage.training.policy_network import PolicyNetwork

    model = tiny("Llama", tie_word_embeddings=False)
    before = label_logprobs(model, {"input_ids": IDS}, LABELS)
    changes = {"trainable_token_indices": {"embed_tokens": [9, 10], "lm_head": [9, 10]}}
    network = PolicyNetwork(with_lora(model, **changes))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "trainable_tokens" in name:
                weight.add_(1.0)
    assert not torch.allclose(label_logprobs(network.model, {"input_ids": IDS}, LABELS), before)
    with network.without_adapter():
        torch.testing.assert_close(label_logprobs(network.model, {"input_ids": IDS}, LABELS), before)


def test_output_layers_that_cannot_be_cut_are_refused():
    dropping = with_lora(tiny("Llama", tie_word_embeddings=False), target_modules=["lm_head"], lora_dropout=0.1).train()
    with pytest.raises(InputError, match="dropout, DoRA"):
        OutputLayer.of(dropping)
    biased = with_lora(tiny("Phi", num_key_value_heads=4), trainable_token_indices={"embed_tokens": [3], "lm_head": [3]})
    with pytest.raises(InputError, match="has a bias"):
        OutputLayer.of(biased)
    model = tiny("Llama")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="not a plain matrix"):
        OutputLayer.of(model)
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(32, 50))
    with pytest.raises(InputError, match="is a Sequential"):
        OutputLayer.of(model)


# What stands on it


def test_sft_and_the_policy_gradient_ask_the_same():
    model = tiny("Gemma2", final_logit_softcapping=2.0, head_dim=8)
    states = model.base_model(input_ids=IDS).last_hidden_state[:, :-1].flatten(0, 1)
    targets = IDS[:, 1:].flatten()
    torch.testing.assert_close(token_logprobs(model, states, targets), score_tokens(states, OutputLayer.of(model), targets).logprobs)


def test_a_batch_in_which_nothing_is_learned_has_a_gradient_of_zeros():
    model = tiny("Llama", tie_word_embeddings=True)
    label_logprobs(model, {"input_ids": IDS}, torch.full_like(LABELS, IGNORED)).sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().max() == 0
