"""Learned weights as folders: saved whole, named by content, put on again, refused where they do not fit or were damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tutelage.adapter import read_adapter, verify
from tutelage.errors import InputError, StoreError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="extra `train` is not installed")

import peft  # noqa: E402 - only where torch is

from toy_weights import make_toy  # noqa: E402
from tutelage.training.adapters import check_fits, load_adapter, save_adapter, tokenizer_folder  # noqa: E402
from tutelage.training.base import Base, find_base, load_causal_lm, load_tokenizer  # noqa: E402

IDS = torch.tensor([[5, 17, 40, 61, 22, 9, 30]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return find_base(str(make_toy(tmp_path_factory.mktemp("weights") / "toy")))


def with_lora(base: Base, seed: int = 0, **settings):
    """A PeftModel whose LoRA weights are random instead of zero."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load_causal_lm(base), peft.LoraConfig(**{"r": 4, "target_modules": "all-linear", **settings}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    return model.eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


# --- saving ---------------------------------------------------------------------------------------------------------------------------


def test_lora_is_saved_and_put_on_again(base: Base, tmp_path: Path):
    model = with_lora(base)
    adapter = save_adapter(model, base, tmp_path, facts={"learner": "sft", "rows": 12})
    assert Path(adapter.folder) == tmp_path / adapter.id
    assert (adapter.kind, adapter.base, adapter.base_name) == ("lora", base.base_id, "toy")
    assert adapter.facts == {"learner": "sft", "rows": 12}
    again = load_adapter(load_causal_lm(base), read_adapter(adapter.folder), name="pupil")
    assert torch.equal(logits(again), logits(model))
    assert again.active_adapter == "pupil"
    assert not torch.allclose(logits(model), logits(load_causal_lm(base)), atol=1e-3)
    assert not any(weight.requires_grad for name, weight in again.named_parameters() if "lora" in name)
    trained_on = load_adapter(load_causal_lm(base), adapter, trainable=True)
    assert all(weight.requires_grad for name, weight in trained_on.named_parameters() if "lora" in name)


def test_peft_itself_loads_the_folder(base: Base, tmp_path: Path):
    model = with_lora(base)
    adapter = save_adapter(model, base, tmp_path, facts={})
    plain = peft.PeftModel.from_pretrained(load_causal_lm(base), adapter.folder)
    assert torch.equal(logits(plain), logits(model))


def test_two_adapters_on_one_base(base: Base, tmp_path: Path):
    first, second = (save_adapter(with_lora(base, seed), base, tmp_path, facts={}) for seed in (1, 2))
    assert first.id != second.id
    both = load_adapter(load_adapter(load_causal_lm(base), first, name="a"), second, name="b")
    assert torch.allclose(logits(both), logits(with_lora(base, 2)), atol=1e-6)
    both.set_adapter("a")
    assert torch.allclose(logits(both), logits(with_lora(base, 1)), atol=1e-6)


def test_the_folder_says_nothing_of_this_machine(base: Base, tmp_path: Path):
    folder = Path(save_adapter(with_lora(base), base, tmp_path, facts={}).folder)
    words = [path.read_bytes() for path in folder.iterdir()]
    assert not any(str(part).encode() in text for text in words for part in (tmp_path, base.folder))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "toy"
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter.json", "adapter_config.json", "adapter_model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # nothing half done beside it


def test_the_id_is_of_the_content_alone(base: Base, tmp_path: Path):
    once = save_adapter(with_lora(base), base, tmp_path, facts={"study": "first"})
    before = (tmp_path / once.id / "adapter.json").stat().st_mtime_ns
    twice = save_adapter(with_lora(base), base, tmp_path, facts={"study": "second"})
    assert twice.id == once.id
    assert twice.facts == {"study": "first"}  # it was there already
    assert (tmp_path / once.id / "adapter.json").stat().st_mtime_ns == before
    others = [
        save_adapter(with_lora(base, 1), base, tmp_path, facts={}),
        save_adapter(with_lora(base, lora_alpha=99), base, tmp_path, facts={}),
        save_adapter(with_lora(base), replace(base, template_id="other"), tmp_path, facts={}),
        save_adapter(with_lora(base), replace(base, base_id="other"), tmp_path, facts={}),
    ]
    assert len({once.id, *(other.id for other in others)}) == 5
    assert save_adapter(with_lora(base, lora_dropout=0.5), replace(base, name="elsewhere"), tmp_path, facts={}).id == once.id


def test_moved_anywhere_it_is_the_same(base: Base, tmp_path: Path):
    adapter = save_adapter(with_lora(base), base, tmp_path / "a", facts={})
    shutil.move(adapter.folder, tmp_path / "b")
    moved = read_adapter(tmp_path / "b")
    verify(moved)
    assert moved == adapter.model_copy(update={"folder": str(tmp_path / "b")})


def test_all_weights(base: Base, tmp_path: Path):
    model = load_causal_lm(base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    adapter = save_adapter(model, base, tmp_path, facts={})
    assert adapter.kind == "full"
    assert torch.equal(logits(load_adapter(load_causal_lm(base), adapter)), logits(model))
    as_base = find_base(adapter.folder)  # a whole folder: any other tool takes it as a model
    assert torch.equal(logits(load_causal_lm(as_base)), logits(model))
    assert load_tokenizer(as_base).chat_template == load_tokenizer(base).chat_template
    assert save_adapter(model, base, tmp_path, facts={}).id == adapter.id
    assert "_name_or_path" not in json.loads((Path(adapter.folder) / "config.json").read_text())


@pytest.mark.parametrize("how", [{"modules_to_save": ["embed_tokens"]}, {"trainable_token_indices": {"embed_tokens": [104, 105]}}])
def test_added_tokens_are_part_of_the_adapter(base: Base, tmp_path: Path, how: dict):
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<call>", "</call>"]})
    new = tokenizer.convert_tokens_to_ids(["<call>", "</call>"])
    if "trainable_token_indices" in how:
        how = {"trainable_token_indices": {"embed_tokens": new}}
    model = load_causal_lm(base)
    model.resize_token_embeddings(len(tokenizer))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", ensure_weight_tying=True, **how)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(0.1 if "lora_B" in name else 0.01)
    with pytest.raises(InputError, match="tokenizer that knows them was not given"):
        save_adapter(model, base, tmp_path, facts={})
    adapter = save_adapter(model, base, tmp_path, facts={}, tokenizer=tokenizer)
    assert tokenizer_folder(adapter) == Path(adapter.folder)
    check_fits(adapter, base)
    again = load_adapter(load_causal_lm(base), adapter)
    ids = torch.tensor([[5, new[0], 7, new[1]]])
    assert torch.allclose(logits(again, ids), logits(model, ids), atol=1e-6)


def test_added_tokens_that_nobody_trained_are_refused(base: Base, tmp_path: Path):
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<call>"])
    model = load_causal_lm(base)
    model.resize_token_embeddings(len(tokenizer))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(InputError, match=r"modules_to_save=\['embed_tokens', 'lm_head'\]"):
        save_adapter(model, base, tmp_path, facts={}, tokenizer=tokenizer)
    half = load_causal_lm(base)
    half.resize_token_embeddings(len(tokenizer))
    half = peft.get_peft_model(half, peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["embed_tokens"]))
    with pytest.raises(InputError, match="lm_head"):  # without it, peft keeps the output's rows out of the adapter
        save_adapter(half, base, tmp_path, facts={}, tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


# --- bad input ------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_said(base: Base, tmp_path: Path):
    with pytest.raises(InputError, match=r"facts\.when.*plain JSON"):
        save_adapter(with_lora(base), base, tmp_path, facts={"when": tmp_path})
    diverged = with_lora(base)
    next(weight for name, weight in diverged.named_parameters() if "lora_B" in name).data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"diverged.*lora_B.*learning_rate"):
        save_adapter(diverged, base, tmp_path, facts={})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        save_adapter(with_lora(base), base, tmp_path / "file", facts={})
    prompts = peft.get_peft_model(load_causal_lm(base), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="adapters are LoRA"):
        save_adapter(prompts, base, tmp_path, facts={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_id": "b2", "name": "bigger"}, r"trained on toy .*and the model is bigger \(weights b2\)"),
        ({"tokenizer_id": "t2"}, "another tokenizer"),
        ({"template_id": "c2"}, "another chat template"),
    ],
)
def test_another_base_is_refused_with_the_reason(base: Base, tmp_path: Path, change: dict, words: str):
    adapter = save_adapter(with_lora(base), base, tmp_path, facts={})
    check_fits(adapter, base)
    with pytest.raises(InputError, match=words):
        check_fits(adapter, replace(base, **change))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def reword(path: Path) -> None:
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 80'))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("adapter_model.safetensors", flip, "not the one that was saved"),
        ("adapter_model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut short"),
        ("adapter_model.safetensors", lambda path: path.write_bytes(b"PK\3\4 not these"), "damaged"),
        ("adapter_model.safetensors", lambda path: path.write_bytes(b""), "damaged|no weights"),
        ("adapter_model.safetensors", Path.unlink, "no weights here"),
        ("adapter_config.json", reword, "not the one that was saved"),
        ("adapter_config.json", Path.unlink, "configuration cannot be read"),
        ("adapter_config.json", lambda path: path.write_text("{"), "configuration cannot be read"),
    ],
)
def test_a_damaged_or_edited_adapter_is_refused(base: Base, tmp_path: Path, file: str, damage, words: str):
    adapter = save_adapter(with_lora(base), base, tmp_path, facts={})
    damage(Path(adapter.folder) / file)
    with pytest.raises(InputError, match=words):
        load_adapter(SimpleNamespace(), adapter)


def test_a_folder_that_is_no_adapter(tmp_path: Path):
    with pytest.raises(InputError, match="no adapter here"):
        read_adapter(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no adapter here"):
        read_adapter(tmp_path / "file")
    (tmp_path / "adapter.json").write_text('{"id": "1"}')
    with pytest.raises(InputError, match=r"adapter\.json: field `base`"):
        read_adapter(tmp_path)
