"""The cut cross-entropy gives what the plain one gives, without its logits."""

from __future__ import annotations

import contextlib
import math
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("peft", reason="extra `train` is not installed")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tutelage.training import cut_blocks  # noqa: E402
from tutelage.training import cut_cross_entropy as module  # noqa: E402
from tutelage.training.cut_blocks import Blocks  # noqa: E402
from tutelage.training.cut_cross_entropy import FILTER, by_package, cut_logprobs, cut_scores  # noqa: E402
from tutelage.training.output_layer import OutputLayer  # noqa: E402


def made(tokens, vocabulary, width=16, *, bias=False, dtype=torch.float32, learns=True, spread=0.5, seed=0, **what):
    """(hidden states, output layer, targets, what the loss pulls the log-probabilities with)."""
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, width, dtype=dtype) * spread).requires_grad_(learns)
    added = torch.randn(vocabulary, dtype=dtype).requires_grad_(learns) if bias else None
    return hidden, OutputLayer(weight, added, **what), torch.randint(vocabulary, (tokens,)), torch.randn(tokens, dtype=dtype)


def plain(hidden, layer, targets, temperature=1.0):
    """(log-probabilities at the temperature, at 1, entropies) by way of all logits, in float64: torch's sums in float32 are less exact."""
    logits = hidden.double() @ layer.weight.double().T
    logits = (logits if layer.bias is None else logits + layer.bias.double()) * layer.scale
    logits = logits if layer.softcap is None else layer.softcap * torch.tanh(logits / layer.softcap)
    whole = (logits / temperature).log_softmax(-1)
    first, second = (found.gather(1, targets[:, None]).squeeze(1) for found in (whole, logits.log_softmax(-1)))
    return tuple(found.to(torch.promote_types(hidden.dtype, torch.float32)) for found in (first, second, -(whole.exp() * whole).sum(-1)))


def gradients(logprobs, pull, hidden, layer):
    """Of hidden states, weight and bias, where they learn."""
    wanted = [tensor for tensor in (hidden, layer.weight, layer.bias) if tensor is not None and tensor.requires_grad]
    return torch.autograd.grad((logprobs * pull).sum(), wanted)


def assert_near(found, expected, tolerance=1e-5):
    """As whole tensors, relative to their length."""
    assert found.shape == expected.shape
    assert torch.linalg.norm(found - expected) <= tolerance * torch.linalg.norm(expected)


# Against the plain computation


@pytest.mark.parametrize("vocabulary", [49_152, 128_256, 262_144])
@pytest.mark.parametrize(
    ("what", "temperature", "keep"),
    [
        ({}, 1.0, 0),
        ({"bias": True}, 0.7, 1 << 30),
        ({"softcap": 3.0}, 1.0, 1 << 30),
        ({"bias": True, "scale": 0.25, "softcap": 1.5}, 1.8, 0),
    ],
)
def test_scores_and_gradients_are_those_of_all_logits(vocabulary, what, temperature, keep):
    hidden, layer, targets, pull = made(9, vocabulary, **what)
    found = cut_scores(hidden, layer, targets, temperature=temperature, keep=keep, blocks=Blocks(4, 10_000))
    expected = plain(hidden, layer, targets, temperature)
    for mine, theirs in zip((found.logprobs, found.plain, found.entropy), expected, strict=True):
        assert_near(mine, theirs)
    theirs = gradients(expected[0], pull, hidden, layer)
    for mine, other in zip(gradients(found.logprobs, pull, hidden, layer), theirs, strict=True):
        assert_near(mine, other)
    assert not found.plain.requires_grad
    assert not found.entropy.requires_grad


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 12),
    st.integers(1, 23),
    st.integers(1, 6),
    st.builds(Blocks, st.integers(1, 7), st.integers(1, 9)),
    st.sampled_from([0, 1 << 20]),
    st.sampled_from([None, 0.8]),
    st.floats(0.3, 3.0),
    st.booleans(),
    st.integers(0, 9),
)
def test_any_shape_and_any_blocks(tokens, vocabulary, width, blocks, keep, softcap, temperature, bias, seed):
    what = {"dtype": torch.float64, "bias": bias, "softcap": softcap, "scale": 1.3, "spread": 2.0, "seed": seed}
    hidden, layer, targets, pull = made(tokens, vocabulary, width, **what)
    found = cut_scores(hidden, layer, targets, temperature=temperature, blocks=blocks, keep=keep)
    expected = plain(hidden, layer, targets, temperature)
    for mine, theirs in zip((found.logprobs, found.plain, found.entropy), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    for mine, theirs in zip(gradients(found.logprobs, pull, hidden, layer), gradients(expected[0], pull, hidden, layer), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def test_by_hand():
    layer = OutputLayer(torch.tensor([[0.0], [math.log(2.0)], [math.log(5.0)]], requires_grad=True))
    hidden = torch.ones(1, 1, requires_grad=True)
    found = cut_scores(hidden, layer, torch.tensor([1]), blocks=Blocks(1, 1))  # 1 : 2 : 5
    assert found.logprobs.item() == pytest.approx(math.log(2 / 8))
    assert found.entropy.item() == pytest.approx(-sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8)))
    found.logprobs.sum().backward()
    assert layer.weight.grad.flatten().tolist() == pytest.approx([-1 / 8, 1 - 2 / 8, -5 / 8])
    assert hidden.grad.item() == pytest.approx((1 - 2 / 8) * math.log(2) - 5 / 8 * math.log(5))


def test_logits_far_apart_stay_numbers():
    weight = torch.tensor([[-800.0], [0.0], [900.0], [899.0]], requires_grad=True)
    hidden, layer = torch.ones(3, 1, requires_grad=True), OutputLayer(weight)
    targets, pull = torch.tensor([0, 2, 3]), torch.ones(3)
    for keep in (0, 1 << 20):
        found = cut_scores(hidden, layer, targets, temperature=0.5, blocks=Blocks(2, 1), keep=keep)
        expected = plain(hidden, layer, targets, 0.5)
        for mine, theirs in zip((found.logprobs, found.plain, found.entropy), expected, strict=True):
            torch.testing.assert_close(mine, theirs)
        for mine, theirs in zip(gradients(found.logprobs, pull, hidden, layer), gradients(expected[0], pull, hidden, layer), strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-5)  # differences of numbers of some hundreds


def test_numbers_that_are_none_are_not_hidden():
    hidden, layer, targets, _ = made(3, 10)
    hidden = torch.where(torch.arange(3)[:, None] == 1, torch.nan, hidden)
    assert cut_logprobs(hidden, layer, targets).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("wrong", [10, -100])
def test_a_target_outside_the_vocabulary_is_an_error(wrong):
    hidden, layer, targets, _ = made(3, 10)
    targets[1] = wrong
    with pytest.raises(IndexError, match="vocabulary of 10"):
        cut_logprobs(hidden, layer, targets)


def test_the_same_numbers_every_time():
    hidden, layer, targets, pull = made(700, 5000, bias=True)
    first, second = (gradients(cut_logprobs(hidden, layer, targets), pull, hidden, layer) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_graph_that_is_kept_can_be_gone_back_twice():
    for keep in (0, 1 << 20):
        hidden, layer, targets, pull = made(9, 50)
        total = (cut_scores(hidden, layer, targets, blocks=Blocks(4, 7), keep=keep).logprobs * pull).sum()
        first, second = (torch.autograd.grad(total, [hidden, layer.weight], retain_graph=True) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# Less precise numbers


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_bfloat16_is_near_a_float32_reference(learns, keep):
    hidden, layer, targets, pull = made(600, 5000, 64, learns=learns, spread=0.2)
    rounded = hidden.detach().bfloat16().requires_grad_()
    small = OutputLayer(layer.weight.detach().bfloat16().requires_grad_(learns))
    exact = OutputLayer(small.weight.detach().float().requires_grad_(learns))
    found = cut_scores(rounded, small, targets, keep=keep)
    again = rounded.detach().float().requires_grad_()
    expected = plain(again, exact, targets)
    assert found.logprobs.dtype == torch.float32
    torch.testing.assert_close(found.logprobs, expected[0], atol=0.05, rtol=0)
    torch.testing.assert_close(found.entropy, expected[2], atol=0.05, rtol=0)
    mine, theirs = gradients(found.logprobs, pull, rounded, small), gradients(expected[0], pull, again, exact)
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert_near(one.float(), other, 0.01)


def test_tokens_that_are_known_well_keep_their_small_gradient_in_bfloat16():
    """p is .9996; rounded to bfloat16 it would be 1, and 1 - p nothing."""
    weight = torch.eye(4, 8, dtype=torch.bfloat16)
    hidden = (torch.eye(4, 8) * 9).bfloat16().requires_grad_()
    targets = torch.arange(4)
    cut_logprobs(hidden, OutputLayer(weight), targets).sum().backward()
    exact = hidden.detach().float().requires_grad_()
    (exact @ weight.float().T).log_softmax(-1).diagonal().sum().backward()
    assert 0 < exact.grad.abs().max() < 5e-4
    torch.testing.assert_close(hidden.grad.float(), exact.grad, rtol=0.02, atol=0)


def test_autocast_multiplies_in_its_type_and_sums_in_float32():
    hidden, layer, targets, pull = made(30, 500, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = cut_logprobs(hidden, layer, targets)
    expected = plain(hidden, layer, targets)[0]
    assert 1e-5 < (found - expected).abs().max() < 0.1
    for mine, theirs in zip(gradients(found, pull, hidden, layer), gradients(expected, pull, hidden, layer), strict=True):
        assert mine.dtype == torch.float32
        assert_near(mine, theirs, 0.02)


# The filter


def peaked():
    """Of 50 entries, in blocks of ten, those from 20 on have a probability of some e-12; all targets lie before."""
    hidden, layer, _, pull = made(12, 50, dtype=torch.float64)
    bias = torch.where(torch.arange(50) < 20, 0.0, -25.0).double().requires_grad_()
    return hidden, OutputLayer(layer.weight, bias), torch.arange(12) % 20, pull


@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_the_filter_leaves_out_blocks_below_its_bound_and_nothing_else(keep):
    hidden, layer, targets, pull = peaked()
    blocks = Blocks(5, 10)
    exact, filtered = (
        gradients(cut_scores(hidden, layer, targets, blocks=blocks, keep=keep, skip_below=bound).logprobs, pull, hidden, layer)
        for bound in (None, FILTER)
    )
    assert (exact[1][20:] != 0).all()
    assert (filtered[1][20:] == 0).all()
    assert torch.equal(filtered[1][:20], exact[1][:20])
    assert torch.equal(filtered[2][:20], exact[2][:20])
    torch.testing.assert_close(filtered[0], exact[0], atol=1e-8, rtol=0)
    assert not torch.equal(filtered[0], exact[0])


def test_the_filter_is_off_unless_asked_for():
    hidden, layer, targets, pull = peaked()
    assert (gradients(cut_logprobs(hidden, layer, targets), pull, hidden, layer)[1][20:] != 0).all()


def test_the_filter_keeps_a_flat_distribution():
    """Each entry of 8,192 is below the bound; all of them are all of the gradient."""
    hidden, layer, targets, pull = made(6, 8192, spread=0.01)
    exact, filtered = (
        gradients(cut_scores(hidden, layer, targets, blocks=Blocks(6, 1024), skip_below=bound).logprobs, pull, hidden, layer)
        for bound in (None, FILTER)
    )
    assert all(torch.equal(one, other) for one, other in zip(exact, filtered, strict=True))


# Memory


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that is made inside."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.numel())
        return out


@pytest.mark.parametrize("learns", [True, False])
def test_logits_of_all_tokens_never_exist(learns):
    tokens, vocabulary, width = 1200, 49_152, 4
    hidden, layer, targets, pull = made(tokens, vocabulary, width, learns=learns, softcap=4.0)
    assert tokens * vocabulary * 4 > module.KEPT_BYTES
    saved = []
    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(lambda own: saved.append(own.numel()) or own, lambda own: own):
        gradients(cut_logprobs(hidden, layer, targets), pull, hidden, layer)
    block = 1 << 19
    assert largest.found <= max(block, vocabulary * width)
    assert sum(saved) < vocabulary * width * learns + 4 * tokens * width + 10 * tokens


def test_a_frozen_layer_has_no_gradient_and_its_logits_are_computed_once(monkeypatch):
    products = []
    monkeypatch.setattr(cut_blocks, "_product", lambda left, right, out: products.append(1) or torch.mm(left, right, out=out))
    for learns, expected in ((False, 3), (True, 6)):
        products.clear()
        hidden, layer, targets, _ = made(4, 30, learns=learns)
        cut_scores(hidden, layer, targets, blocks=Blocks(4, 10), keep=0).logprobs.sum().backward()
        assert (layer.weight.grad is not None) is learns
        assert len(products) == expected + 3 * learns  # the last: the first product of each part of the layer's gradient


def test_without_gradients_nothing_is_kept():
    hidden, layer, targets, _ = made(4, 30)
    saved = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda own: saved.append(own) or own, lambda own: own):
        found = cut_scores(hidden, layer, targets)
    assert saved == []
    assert not found.logprobs.requires_grad


def test_only_the_layer_learns():
    hidden, layer, targets, pull = made(4, 30)
    hidden = hidden.detach()
    for mine, theirs in zip(
        gradients(cut_logprobs(hidden, layer, targets), pull, hidden, layer),
        gradients(plain(hidden, layer, targets)[0], pull, hidden, layer),
        strict=True,
    ):
        assert_near(mine, theirs)


# The paper's package


def fake_package(asked):
    """In the place of `cut_cross_entropy.linear_cross_entropy`, with its arguments."""

    def linear_cross_entropy(e, c, targets, ignore_index=-100, softcap=None, reduction="mean", shift=False, filter_eps="high", impl="cce"):
        asked.append((softcap, reduction, shift, filter_eps, e.dtype))
        logits = (e @ c.to(e.dtype).T).float()
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction)

    return linear_cross_entropy


@pytest.mark.parametrize("what", [{}, {"scale": 0.25}, {"softcap": 3.0}, {"scale": 0.5, "softcap": 2.0}])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_package_is_asked_for_the_same(what, temperature):
    hidden, layer, targets, pull = made(8, 300, learns=False, **what)
    asked = []
    with torch.autocast("cpu", torch.bfloat16):
        found = by_package(fake_package(asked), hidden, layer, targets, temperature=temperature)
    assert found.dtype == torch.float32
    expected = plain(hidden, layer, targets, temperature)[0]
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    assert_near(gradients(found, pull, hidden, layer)[0], gradients(expected, pull, hidden, layer)[0], 0.03)
    assert asked[0][1:] == ("none", False, None, torch.bfloat16)


def test_the_package_is_asked_only_for_what_it_can_do(monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", SimpleNamespace(linear_cross_entropy=fake_package(asked)))
    module._package.cache_clear()
    assert module._package() is not None
    module._package.cache_clear()
    cases = [({}, True, True), ({"learns": True}, True, False), ({"bias": True}, True, False), ({}, False, False)]
    for changes, half, expected in cases:
        hidden, layer, *_ = made(4, 20, **{"learns": False, **changes})
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            assert module._answers(hidden, layer) is expected
    hidden, layer, targets, _ = made(4, 20, learns=False, dtype=torch.bfloat16)
    cut_logprobs(hidden, layer, targets)
    assert asked == [], "on a CPU never"


def test_without_the_package_the_blocks_are_our_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
    module._package.cache_clear()
    assert module._package() is None
    module._package.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("what", [{}, {"softcap": 3.0}, {"bias": True}, {"learns": False}, {"learns": False, "softcap": 3.0, "scale": 0.5}])
def test_on_a_gpu_as_on_a_cpu(what):
    hidden, layer, targets, pull = made(600, 50_000, 64, **what)
    on_gpu = OutputLayer(
        *(None if own is None else own.detach().cuda().requires_grad_(own.requires_grad) for own in (layer.weight, layer.bias)),
        layer.scale,
        layer.softcap,
    )
    there = hidden.detach().cuda().requires_grad_()
    expected = plain(hidden, layer, targets)[0]
    for autocast, tolerance in ((False, 1e-4), (True, 0.03)):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            found = cut_logprobs(there, on_gpu, targets.cuda())
        assert_near(found.cpu(), expected, tolerance)
        mine, theirs = gradients(found, pull.cuda(), there, on_gpu), gradients(expected, pull, hidden, layer)
        for one, other in zip(mine, theirs, strict=True):
            assert_near(one.cpu(), other, tolerance)
