"""Adapters combined by peft and compared by their changes, against sums, TIES and decompositions worked out here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tutelage.adapter import Adapter, stored_tensors, verify
from tutelage.errors import InputError
from tutelage.gguf_file import fingerprint

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="extra `train` is not installed")
peft = pytest.importorskip("peft", reason="extra `train` is not installed")

from test_adapter_commands import run, write_lora  # noqa: E402 - only where torch is
from toy_gguf import make_gguf  # noqa: E402
from toy_weights import make_toy  # noqa: E402
from tutelage.study.config import load_agent  # noqa: E402
from tutelage.training.adapter_arithmetic import METHODS, Combination, combine_adapters  # noqa: E402
from tutelage.training.adapter_compare import compare_adapters  # noqa: E402
from tutelage.training.adapter_files import convert_adapter, fold_adapter  # noqa: E402
from tutelage.training.adapters import load_adapter, save_adapter  # noqa: E402
from tutelage.training.base import Base, find_base, load_causal_lm, load_tokenizer  # noqa: E402
from tutelage.training.lora_pairs import read_pairs  # noqa: E402

IDS = torch.tensor([[5, 17, 40, 61, 22, 9, 30]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return find_base(str(make_toy(tmp_path_factory.mktemp("weights") / "toy", width=32)))


def with_lora(base: Base, seed: int, **settings):
    torch.manual_seed(seed)
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"], **settings}
    model = peft.get_peft_model(load_causal_lm(base), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    return model.eval()


def lora(base: Base, out: Path, seed: int, **settings) -> Adapter:
    return save_adapter(with_lora(base, seed, **settings), base, out, facts={})


def full(base: Base, out: Path, seed: int) -> Adapter:
    model = load_causal_lm(base)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return save_adapter(model, base, out, facts={})


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits.float()


def factors(adapter: Adapter) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    return {name: (*pair.read(), pair.scale) for name, pair in read_pairs(adapter).pairs.items()}


def changes(adapter: Adapter) -> dict[str, np.ndarray]:
    return {name: scale * high.astype("f8") @ low for name, (low, high, scale) in factors(adapter).items()}


def agree(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(values).max() > 0.01
        assert np.abs(found[name] - values).max() < tolerance, name


# --- combining ------------------------------------------------------------------------------------------------------------------------


def test_cat_is_the_sum_of_the_changes_whatever_their_ranks_and_layers(base: Base, tmp_path: Path):
    parents = [
        lora(base, tmp_path, 1),
        lora(base, tmp_path, 2, r=5, use_rslora=True, target_modules=["q_proj", "down_proj"]),
        lora(base, tmp_path, 3, alpha_pattern={"layers.1.self_attn.q_proj": 30}),
    ]
    weights = (0.5, -1.0, 2.0)
    made = combine_adapters(parents, tmp_path / "out", Combination(weights=weights))
    wanted: dict[str, np.ndarray] = {}
    for weight, parent in zip(weights, parents, strict=True):
        for name, change in changes(parent).items():
            wanted[name] = wanted.get(name, 0) + weight * change
    agree(changes(made), wanted)
    assert read_pairs(made).config["r"] == 3 + 5 + 3
    assert read_pairs(made).config["target_modules"] == ["down_proj", "q_proj", "up_proj", "v_proj"]


def test_the_outcome_is_an_ordinary_adapter_that_says_of_what_it_was_made(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, seed) for seed in (1, 2)]
    made = combine_adapters(parents, tmp_path / "out")
    verify(made)
    assert Path(made.folder) == tmp_path / "out" / made.id
    assert (made.kind, made.base, made.tokenizer, made.template) == ("lora", base.base_id, base.tokenizer_id, base.template_id)
    facts = {name: value for name, value in made.facts.items() if name != "peft"}
    assert facts == {
        "made_by": "combine",
        "method": "cat",
        "parents": [{"id": parent.id, "weight": 0.5} for parent in parents],
        "rank": 6,
    }
    model = load_causal_lm(base)
    for name, change in changes(made).items():
        model.get_submodule(name).weight.data += torch.from_numpy(change).float()
    worn = load_adapter(load_causal_lm(base), made)
    assert torch.allclose(logits(worn), logits(model), atol=1e-5)
    assert not torch.allclose(logits(worn), logits(load_causal_lm(base)), atol=1e-2)
    again = combine_adapters([made, lora(base, tmp_path, 3)], tmp_path / "out")  # a parent of others in its turn
    assert read_pairs(again).config["r"] == 9


def test_linear_adds_up_the_factors_with_the_root_of_weight_and_scale(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, 1, use_rslora=True), lora(base, tmp_path, 2)]
    weights = (0.8, -0.4)
    made = combine_adapters(parents, tmp_path / "out", Combination(method="linear", weights=weights))
    wanted = {}
    first, second = (factors(parent) for parent in parents)
    for name in first:
        (a1, b1, s1), (a2, b2, s2) = first[name], second[name]
        assert (s1, s2) == pytest.approx((6 / 3**0.5, 2))
        low = (0.8 * s1) ** 0.5 * a1 - (0.4 * s2) ** 0.5 * a2
        high = (0.8 * s1) ** 0.5 * b1 + (0.4 * s2) ** 0.5 * b2
        wanted[name] = high @ low
    agree(changes(made), wanted)
    assert factors(made)["model.layers.0.self_attn.q_proj"][2] == 1  # also where a parent has use_rslora


def trimmed(values: np.ndarray, density: float) -> np.ndarray:
    """The largest entries, the others 0."""
    kept = int(density * values.size)
    least = np.sort(np.abs(values).ravel())[-kept]
    return np.where(np.abs(values) >= least, values, 0)


def ties(tensors: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    """Trim, elect signs, and the weighted mean of what agrees, entry by entry."""
    stacked = np.stack([trimmed(tensor, density) for tensor in tensors])
    elected = np.where(stacked.sum(0) >= 0, 1, -1)
    agrees = np.sign(stacked) == elected
    weighted = stacked * np.array(weights).reshape(-1, 1, 1)
    return (weighted * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def nearest(change: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(change)
    return left[:, :rank] * values[:rank] @ right[:rank]


def test_ties_trims_elects_and_merges(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, seed) for seed in (1, 2, 3)]
    weights, density = [0.5, 0.3, 0.2], 0.4
    how = Combination(method="ties", weights=tuple(weights), density=density)
    made = combine_adapters(parents, tmp_path / "out", how)
    assert made.facts["density"] == 0.4
    assert "seed" not in made.facts
    wanted = {}
    for name in changes(made):
        known = [factors(parent)[name] for parent in parents]
        roots = [(weight * scale) ** 0.5 for weight, (_, _, scale) in zip(weights, known, strict=True)]
        low, high = (ties([one[place] for one in known], roots, density) for place in (0, 1))
        wanted[name] = high @ low
    agree(changes(made), wanted)


def test_methods_with_svd_give_the_nearest_change_of_a_rank(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, 1), lora(base, tmp_path, 2, r=4)]
    known = [changes(parent) for parent in parents]
    made = combine_adapters(parents, tmp_path / "out", Combination(method="svd", weights=(1, -2), rank=2))
    agree(changes(made), {name: nearest(known[0][name] - 2 * known[1][name], 2) for name in known[0]})
    made = combine_adapters(parents, tmp_path / "out", Combination(method="ties_svd", weights=(1, 2), density=0.5))
    assert made.facts["rank"] == 4
    agree(changes(made), {name: nearest(ties([one[name] for one in known], [1, 2], 0.5), 4) for name in known[0]}, 1e-4)


def test_dare_keeps_entries_at_random_and_repeats_under_a_seed(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, seed) for seed in (1, 2)]

    def dare(seed: int) -> Adapter:
        torch.manual_seed(99)
        made = combine_adapters(parents, tmp_path / "out", Combination(method="dare_linear", weights=(1, 1), density=0.25, seed=seed))
        assert torch.initial_seed() == 99  # others' random numbers are left alone
        return made

    once = dare(5)
    assert once.facts["seed"] == 5
    assert dare(5).id == once.id
    assert dare(6).id != once.id
    kept = []
    for name, (low, _, _) in factors(once).items():
        first, second = (factors(parent)[name] for parent in parents)
        possible = np.stack(
            [
                one * first[0] * first[2] ** 0.5 / 0.25 + two * second[0] * second[2] ** 0.5 / 0.25
                for one, two in ((0, 0), (1, 0), (0, 1), (1, 1))
            ]
        )
        distances = np.abs(possible - low)
        assert distances.min(0).max() < 1e-5
        kept.append(np.isin(distances.argmin(0), (1, 3)).mean())
    assert 0.15 < np.mean(kept) < 0.35


@pytest.mark.parametrize("method", [name for name in METHODS if "dare" not in name])
def test_without_the_base_it_is_what_peft_makes_on_the_model(base: Base, tmp_path: Path, method: str):
    parents = [lora(base, tmp_path, seed) for seed in (1, 2)]
    density = 0.5 if Combination(method=method).prunes else None
    made = combine_adapters(parents, tmp_path / "out", Combination(method=method, weights=(0.7, 0.3), density=density))
    model = load_adapter(load_adapter(load_causal_lm(base), parents[0], "a"), parents[1], "b")
    model.add_weighted_adapter(["a", "b"], [0.7, 0.3], "c", combination_type=method, density=density)
    model.set_adapter("c")
    assert torch.allclose(logits(load_adapter(load_causal_lm(base), made)), logits(model), atol=1e-4)


def test_layers_chosen_by_number_are_named_one_by_one(base: Base, tmp_path: Path):
    parents = [lora(base, tmp_path, 1, target_modules=r".*layers\.1.*q_proj"), lora(base, tmp_path, 2, layers_to_transform=[1])]
    made = combine_adapters(parents, tmp_path / "out")
    names = ["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    assert read_pairs(made).config["target_modules"] == names
    worn = load_adapter(load_causal_lm(base), made)
    assert sorted({name for name, _ in worn.named_modules() if name.endswith("lora_A")}) == [
        f"base_model.model.{name}.lora_A" for name in names
    ]


def test_the_command_combines_without_any_base(tmp_path: Path):
    first, second = (write_lora(tmp_path / "adapters", value) for value in (1, 2))
    words = run("combine", first.folder, second.folder, "--weights=2,-1", "--out", tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    for word in (f"+2 times {first.id}", f"-1 times {second.id}", f"{folder}: cat, rank 2", "tutelage eval"):
        assert word in words
    row = json.loads(run("list", tmp_path / "out", "--json"))
    assert row["made_by"] == f"combine cat of 2 {first.id[:8]}, -1 {second.id[:8]}"
    with pytest.raises(InputError, match="nothing is left"):
        run("combine", first.folder, second.folder, "--method", "magnitude_prune", "--density", "0.001", "--out", tmp_path / "out")


def test_more_than_pairs_and_whole_models_are_refused(base: Base, tmp_path: Path):
    first = lora(base, tmp_path, 1)
    for words, other in (
        ("all weights were trained", full(base, tmp_path, 2)),
        ("embed_tokens.*cannot be added up", lora(base, tmp_path, 2, trainable_token_indices=[5, 6])),
        ("lm_head.*cannot be added up", lora(base, tmp_path, 2, modules_to_save=["lm_head"])),
    ):
        with pytest.raises(InputError, match=words):
            combine_adapters([first, other], tmp_path / "out")


# --- comparing ------------------------------------------------------------------------------------------------------------------------


def check_numbers(comparison, first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    """Against dense changes, in float64."""
    zero = np.zeros(())
    assert {layer.name for layer in comparison.layers} == {*first, *second}
    for layer in (*comparison.layers, comparison.overall):
        if layer.name == "all layers":
            one = np.concatenate(
                [np.broadcast_to(first.get(name, zero), (first | second)[name].shape).ravel() for name in sorted({*first, *second})]
            )
            other = np.concatenate(
                [np.broadcast_to(second.get(name, zero), (first | second)[name].shape).ravel() for name in sorted({*first, *second})]
            )
        else:
            one, other = first.get(layer.name, zero), second.get(layer.name, zero)
        norms = np.linalg.norm(one), np.linalg.norm(other)
        assert (layer.norm_first, layer.norm_second) == pytest.approx(norms, rel=1e-5, abs=1e-6)
        assert layer.difference == pytest.approx(np.linalg.norm(one - other) / sum(norms), rel=1e-5, abs=1e-6)
        if all(norms):
            assert layer.cosine == pytest.approx((one * other).sum() / norms[0] / norms[1], abs=1e-6)
        else:
            assert layer.cosine is None
    assert [layer.difference for layer in comparison.layers] == sorted((layer.difference for layer in comparison.layers), reverse=True)


def test_two_lora_adapters_layer_by_layer(base: Base, tmp_path: Path):
    first, second = lora(base, tmp_path, 1), lora(base, tmp_path, 2, r=5, target_modules=["q_proj", "down_proj"])
    comparison = compare_adapters(first, second)
    check_numbers(comparison, changes(first), changes(second))
    assert comparison.differing["r"] == (3, 5)
    assert "base" in comparison.settings
    assert "base" not in comparison.differing
    layer = next(layer for layer in comparison.layers if layer.name == "model.layers.0.self_attn.q_proj")
    one, other = changes(first)[layer.name], changes(second)[layer.name]
    (u, _, v), (u2, _, v2) = np.linalg.svd(one), np.linalg.svd(other)
    angles = np.linalg.svd(u[:, :3].T @ u2[:, :5])[1], np.linalg.svd(v[:3] @ v2[:5].T)[1]
    assert (layer.overlap_out, layer.overlap_in) == pytest.approx(tuple((cosines**2).mean() for cosines in angles), abs=1e-6)


def test_of_an_adapter_with_itself_and_with_its_opposite(base: Base, tmp_path: Path):
    first, second = lora(base, tmp_path, 1), lora(base, tmp_path, 2)
    same = compare_adapters(first, first)
    assert same.overall.difference == pytest.approx(0, abs=1e-7)
    assert {(round(layer.overlap_in, 9), round(layer.overlap_out, 9)) for layer in same.layers} == {(1, 1)}
    ahead, back = (combine_adapters([first, second], tmp_path / "out", Combination(weights=weights)) for weights in ((1, 2), (-1, -2)))
    opposite = compare_adapters(ahead, back)
    assert (opposite.overall.cosine, opposite.overall.difference) == pytest.approx((-1, 1), abs=1e-6)
    untrained = peft.get_peft_model(load_causal_lm(base), peft.LoraConfig(r=3, target_modules=["q_proj"]))
    nothing = compare_adapters(first, save_adapter(untrained, base, tmp_path, facts={}))
    assert {(layer.norm_second, layer.cosine, layer.difference, layer.overlap_in) for layer in nothing.layers} == {(0, None, 1, None)}


def dense(base: Base, adapter: Adapter) -> dict[str, np.ndarray]:
    before, after = load_causal_lm(base), load_adapter(load_causal_lm(base), adapter)
    known = dict(before.named_parameters())
    return {
        name.removesuffix(".weight"): (weight.detach() - known[name].detach()).double().numpy() for name, weight in after.named_parameters()
    }


def test_a_whole_model_is_compared_by_its_changes_to_the_base(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tutelage.training.adapter_compare._BLOCK", 1000)  # many blocks of rows
    first, second, small = full(base, tmp_path, 1), full(base, tmp_path, 2), lora(base, tmp_path, 3)
    check_numbers(compare_adapters(first, second, base), dense(base, first), dense(base, second))
    check_numbers(compare_adapters(small, first, base), changes(small), dense(base, first))
    with pytest.raises(InputError, match="name it as the base"):
        compare_adapters(first, small)
    other = find_base(str(make_toy(tmp_path / "other", seed=5, width=32)))
    with pytest.raises(InputError, match=r"trained on toy .* and the model is other"):
        compare_adapters(first, small, other)
    words = run("compare", first.folder, small.folder, "--base", base.folder, "--top", "2")
    assert words.count("model.") == 2
    assert "layers that differ most" in words
    with pytest.raises(InputError, match="toy"):
        run("compare", first.folder, small.folder)  # no model is called so here


def test_what_is_no_sum_is_left_out_and_said(base: Base, tmp_path: Path):
    rows = lora(base, tmp_path, 1, trainable_token_indices=[5, 6])
    comparison = compare_adapters(rows, lora(base, tmp_path, 2))
    assert [words for words in comparison.left_out if "embed_tokens" in words and rows.id in words]
    with pytest.raises(InputError, match="use_dora"):
        compare_adapters(rows, lora(base, tmp_path, 3, use_dora=True))


# --- folding and converting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 0.1)])
def test_folded_into_a_folder_it_is_the_same_model(base: Base, tmp_path: Path, dtype: str, share: float):
    model = with_lora(base, 1)
    adapter = save_adapter(model, base, tmp_path, facts={})
    words = run("fold", adapter.folder, "--base", base.folder, "--dtype", dtype, "--out", tmp_path / "folded")
    assert f"{tmp_path / 'folded'}: " in words
    folded = find_base(str(tmp_path / "folded"))
    stored = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    assert {tensor.dtype for tensor in stored_tensors(folded.folder).values()} == {stored}
    learned = (logits(model) - logits(load_causal_lm(base))).abs().max()
    assert (logits(model) - logits(load_causal_lm(folded, "float32"))).abs().max() < share * learned
    (tmp_path / "agent.yaml").write_text(f"model: hf:{tmp_path / 'folded'}")
    assert load_agent(tmp_path / "agent.yaml").load().name.startswith("hf:folded")
    with pytest.raises(InputError, match="trained on toy"):  # folded twice it would be another model
        fold_adapter(adapter, tmp_path / "twice", base=str(folded.folder))


def test_new_tokens_and_tied_embeddings_are_folded_in(base: Base, tmp_path: Path):
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<call>", "</call>"]})
    new = tokenizer.convert_tokens_to_ids(["<call>", "</call>"])
    model = load_causal_lm(base)
    model.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": new}, ensure_weight_tying=True)
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    adapter = save_adapter(model, base, tmp_path, facts={}, tokenizer=tokenizer)
    folded = find_base(str(fold_adapter(adapter, tmp_path / "folded", base=str(base.folder), dtype="float32")))
    ids = torch.tensor([[5, new[0], 7, new[1]]])
    loaded = load_causal_lm(folded)
    assert torch.allclose(logits(loaded, ids), logits(model, ids), atol=1e-5)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert load_tokenizer(folded).convert_tokens_to_ids(["<call>", "</call>"]) == new


def test_a_peft_folder_is_peft_s_own(base: Base, tmp_path: Path):
    model = with_lora(base, 1)
    adapter = save_adapter(model, base, tmp_path, facts={})
    out = convert_adapter(adapter, "peft", tmp_path / "plain", base="someone/toy")
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert torch.equal(logits(peft.PeftModel.from_pretrained(load_causal_lm(base), str(out))), logits(model))
    assert peft.PeftConfig.from_pretrained(str(out)).base_model_name_or_path == "someone/toy"
    with pytest.raises(InputError, match="`fold` writes it"):
        convert_adapter(full(base, tmp_path, 1), "peft", tmp_path / "other")


def test_a_lora_file_of_llama_cpp_holds_the_changes_in_its_order_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gguf = pytest.importorskip("gguf", reason="extra `local` is not installed")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    path = make_gguf(tmp_path / "toy.gguf")
    base = find_base(str(path))
    adapter = lora(base, tmp_path, 1)
    run("convert", adapter.folder, "--to", "gguf", "--base", path, "--out", tmp_path / "lora.gguf")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "lora.gguf").tensors}
    up = changes(adapter)["model.layers.0.mlp.up_proj"]
    assert np.abs(tensors["blk.0.ffn_up.weight.lora_b"] @ tensors["blk.0.ffn_up.weight.lora_a"] - up).max() < 1e-5
    query = changes(adapter)["model.layers.1.self_attn.q_proj"]
    rows = query.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)  # halves of each head's rows, side by side
    assert np.abs(tensors["blk.1.attn_q.weight.lora_b"] @ tensors["blk.1.attn_q.weight.lora_a"] - rows).max() < 1e-5
    convert_adapter(adapter, "gguf", tmp_path / "same.gguf", base=str(base.folder))  # by the folder that the file was converted to
    assert fingerprint(tmp_path / "same.gguf") == fingerprint(tmp_path / "lora.gguf")
    head = lora(base, tmp_path, 2, target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match=r"output layer; `fold` it"):
        convert_adapter(head, "gguf", tmp_path / "head.gguf", base=str(path))
    with pytest.raises(InputError, match=r"trained on toy\.gguf"):
        convert_adapter(adapter, "gguf", tmp_path / "x.gguf", base=str(make_gguf(tmp_path / "other.gguf", seed=1)))
