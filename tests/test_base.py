"""Bases: a GGUF becomes a transformers folder that computes and tokenises as llama.cpp does; ids say what belongs together."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("gguf", reason="extra `train` is not installed")

import gguf
import torch

from toy_gguf import make_gguf
from toy_weights import TEMPLATE, make_toy
from tutelage.errors import InputError, MissingExtra
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint
from tutelage.model import load_model
from tutelage.models.gguf import GGUF
from tutelage.records import Message, Sampling
from tutelage.training import base as bases
from tutelage.training import gguf_weights
from tutelage.training.base import base_name, base_of, cache_folder, find_base, load_causal_lm, load_tokenizer

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("model"):  # the embedded model is converted once for all
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))


def logits_of(base: bases.Base, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return load_causal_lm(base, "float32")(torch.tensor([ids])).logits[0]


# --- conversion -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "tied"), [("llama", True), ("llama", False), ("qwen2", True), ("qwen2", False)])
def test_a_converted_gguf_computes_what_transformers_own_loader_computes(tmp_path: Path, architecture: str, tied: bool):
    from transformers import AutoModelForCausalLM

    file = make_gguf(tmp_path / "toy.gguf", architecture=architecture, tied=tied)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=file.name, dtype=torch.float32)
    ids = [1, 50, 60, 70, 80, 90, 100]
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    base = find_base(str(file))
    assert torch.allclose(logits_of(base, ids), expected, atol=1e-5)
    assert load_causal_lm(base).config.tie_word_embeddings is tied


def test_several_files_hold_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = make_gguf(tmp_path / "toy.gguf")
    one = find_base(str(file))
    expected = logits_of(one, [1, 2, 3])
    shutil.rmtree(one.folder)
    monkeypatch.setattr(gguf_weights, "_SHARD_BYTES", 100_000)
    many = find_base(str(file))
    assert len(list(many.folder.glob("*.safetensors"))) > 1
    assert torch.equal(logits_of(many, [1, 2, 3]), expected)


def test_rows_of_rotary_weights_are_put_back_in_order():
    """Two heads of four rows: llama.cpp keeps 0 2 1 3 of a head (its pairs side by side) where transformers keeps 0 1 2 3."""
    import numpy as np

    stored = np.array([0, 2, 1, 3, 10, 12, 11, 13])[:, None]
    assert gguf_weights._rotary_rows(stored, 2)[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_it_is_converted_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    file = make_gguf(tmp_path / "toy.gguf")
    first = find_base(str(file))
    assert first.folder == cache_folder() / fingerprint(file)
    said = capsys.readouterr()
    assert (said.out, "converting toy.gguf" in said.err) == ("", True)
    monkeypatch.setattr(bases, "convert", None)
    assert find_base(str(file)) == first
    assert capsys.readouterr().err == ""
    assert [path.name for path in cache_folder().iterdir()] == [first.folder.name]  # nothing half done beside it


def _convert(file: str, cache: str, results: Any) -> None:
    import os

    os.environ["TUTELAGE_CACHE"] = cache
    results.put(str(find_base(file).folder))


def test_two_processes_may_convert_at_once(tmp_path: Path):
    file = make_gguf(tmp_path / "toy.gguf")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_convert, args=(str(file), str(tmp_path / "both"), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    folders = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert folders == {str(tmp_path / "both" / "weights" / fingerprint(file))}
    assert len(list((tmp_path / "both" / "weights").iterdir())) == 1


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = make_gguf(tmp_path / "toy.gguf")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf_weights, "_write_tensors", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free some space or set TUTELAGE_CACHE"):
        find_base(str(file))
    assert list(cache_folder().iterdir()) == []


def test_a_small_disk_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = make_gguf(tmp_path / "toy.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(InputError, match=r"need 0\.0 GiB and 0\.0 are free"):
        find_base(str(file))


# --- what cannot be converted ---------------------------------------------------------------------------------------------------------


def test_a_cut_file_is_an_input_error(tmp_path: Path):
    whole = make_gguf(tmp_path / "toy.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (40, 3000, len(whole) // 2, len(whole) - 100):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.gguf.*damaged or cut off"):
            find_base(str(cut))
    assert not cache_folder().exists() or list(cache_folder().iterdir()) == []


def altered(tmp_path: Path, **settings: Any) -> Path:
    """A GGUF with nothing but settings."""
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", settings.pop("architecture", "llama"))
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "odd.gguf"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "mamba"}, "architecture `mamba` cannot be converted; supported are llama, qwen2, qwen3"),
        ({"expert_count": 8}, r"llama models with `llama\.expert_count`"),
        ({}, "no chat template"),
        (
            {"chat_template": "x", "tokenizer_model": "llama", "token_list": ["a"], "token_types": [1]},
            "tokenizer `llama/default`.*gpt2/qwen2",
        ),
    ],
)
def test_what_is_not_supported_is_said(tmp_path: Path, settings: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        find_base(str(altered(tmp_path, **settings)))


def test_paths_and_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="no such file"):
        find_base(str(tmp_path / "nowhere.gguf"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="neither a GGUF file nor a folder"):
        find_base(str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match=r"no config\.json"):
        find_base(str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"somebody/something.*no model of that name could be fetched from the hub"):
        find_base("somebody/something")


def test_folders_that_lack_something(tmp_path: Path):
    folder = make_toy(tmp_path / "toy")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights in this folder"):
        find_base(str(folder))
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(InputError, match="weights"):
        load_causal_lm(find_base(str(folder)))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        find_base(str(folder))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json.*cannot be read"):
        find_base(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer in this folder"):
        find_base(str(folder))


def test_devices_that_are_none(tmp_path: Path):
    base = find_base(str(make_toy(tmp_path / "toy")))
    with pytest.raises(InputError, match="`banana` is no device"):
        load_causal_lm(base, device="banana")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU here"):
            load_causal_lm(base, device="cuda")


def test_without_the_extra_its_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = make_gguf(tmp_path / "toy.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"gguf.*pip install 'tutelage\[train\]'"):
        find_base(str(file))


def test_finding_a_base_needs_no_torch(tmp_path: Path):
    file = make_gguf(tmp_path / "toy.gguf")
    code = f"""
import sys
from tutelage.training.base import find_base
find_base({str(file)!r})
sys.exit('torch' in sys.modules or 'transformers' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what belongs together -------------------------------------------------------------------------------------------------------------


def test_ids_are_equal_however_the_base_is_reached(tmp_path: Path):
    file = make_gguf(tmp_path / "toy.gguf")
    direct = find_base(str(file))
    copied = Path(shutil.copy(file, tmp_path / "copy.gguf"))
    for which in (str(direct.folder), str(copied)):
        other = find_base(which)
        assert (other.base_id, other.tokenizer_id, other.template_id) == (direct.base_id, direct.tokenizer_id, direct.template_id)
    assert find_base(str(direct.folder)).gguf == file
    assert base_of(f"gguf:{file}?slots=1") == base_of(f"hf:{file}?batch=2") == direct
    assert direct.base_id == fingerprint(file)


def test_ids_tell_weights_tokenizer_and_template_apart(tmp_path: Path):
    one = find_base(str(make_toy(tmp_path / "one")))
    same = find_base(str(make_toy(tmp_path / "same")))
    assert (one.base_id, one.tokenizer_id, one.template_id) == (same.base_id, same.tokenizer_id, same.template_id)
    assert find_base(str(make_toy(tmp_path / "other", seed=1))).base_id != one.base_id
    template = find_base(str(make_toy(tmp_path / "template", template=TEMPLATE + " ")))
    assert (template.base_id == one.base_id, template.tokenizer_id == one.tokenizer_id, template.template_id == one.template_id) == (
        True,
        True,
        False,
    )
    tokenizer = json.loads((same.folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {name: number for name, number in tokenizer["model"]["vocab"].items() if name != "~"}
    (same.folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert find_base(str(same.folder)).tokenizer_id != one.tokenizer_id


def test_names_say_the_content_and_are_found_without_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bases, "convert", None)
    file = make_gguf(tmp_path / "toy.gguf")
    assert base_name(str(file)) == f"toy.gguf@{fingerprint(file)}"
    folder = make_toy(tmp_path / "trained")
    assert base_name(str(folder)) == f"trained@{find_base(str(folder)).base_id}"


def test_the_base_behind_a_model(tmp_path: Path):
    file = make_gguf(tmp_path / "toy.gguf")
    folder = make_toy(tmp_path / "toy")
    assert base_of(load_model(f"gguf:{file}")) == find_base(str(file))
    assert base_of(f"hf:{folder}") == find_base(str(folder))
    for model in ("endpoint:gpt-4o?base_url=http://localhost", load_model("scripted:echo")):
        with pytest.raises(InputError, match="are not here to be trained"):
            base_of(model)


def test_a_loaded_model_is_a_fresh_copy_in_eval_mode(tmp_path: Path):
    base = find_base(str(make_toy(tmp_path / "toy")))
    one, other = load_causal_lm(base), load_causal_lm(base)
    with torch.no_grad():
        one.lm_head.weight.zero_()
    assert other.lm_head.weight.any()
    assert not one.training
    assert one.dtype is torch.float32
    assert load_causal_lm(base, dtype="bfloat16").dtype is torch.bfloat16


# --- the embedded model -----------------------------------------------------------------------------------------------------------------


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


CONVERSATIONS = [
    [user("hi")],
    [{"role": "system", "content": "Be brief."}, user("hi"), {"role": "assistant", "content": "ho"}, user("and?")],
    [user("naïve café ﬁ Å A\u030a 北京 123456 ½ ٣٤ 🙂👩‍👩‍👧 \u0301x")],
    [user("a <|im_end|> in <|im_start|>text <|endoftext|><|im_end|>\n <tool_call>{}</tool_call> <file_sep>")],
    [user("  lead and trail  \n\n\n"), {"role": "assistant", "content": "  "}, user("")],
    [user("\ttabs\t\tand  \r\n crlf \r\r I'LL don't THEY'RE ſ's\u00a0\u3000\u2028y\x00\x01")],
    [user("def f(x):\n    return x+1\n\n\n\n        # 1,234.56 !!! ???"), {"role": "assistant", "content": "{{ x }} {% if %}"}, user("so")],
    [user("x" * 50 + " " * 30 + "y")],
]


@pytest.mark.model
def test_prompts_have_the_tokens_that_llama_cpp_gives_them():
    tokenizer = load_tokenizer(find_base(SMOLLM))
    model = GGUF(SMOLLM, slots=1, context=1024, threads=1)
    engine = model.load()
    for messages in CONVERSATIONS:
        own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert own == engine.prompt_ids(messages), messages


@pytest.mark.model
async def test_the_dequantised_model_agrees_with_llama_cpp():
    """llama.cpp rounds activations to 8 bits where the weights are quantised, so the logprobs agree to a few hundredths."""
    base = find_base(SMOLLM)
    assert (base.name, base.gguf) == (SMOLLM, find_gguf(SMOLLM))
    model = GGUF(SMOLLM, slots=1, context=512, threads=1)
    ask = [Message(role="user", content="What is the capital of France? One word.")]
    trace = (await model.complete(ask, sampling=Sampling(max_tokens=8, logprobs=True))).tokens
    assert trace is not None
    ids = list(trace.completion_ids)
    scores = logits_of(base, [*trace.prompt_ids, *ids])[len(trace.prompt_ids) - 1 : -1].log_softmax(-1)
    assert scores.argmax(-1).tolist() == ids
    assert scores[range(len(ids)), ids].tolist() == pytest.approx(trace.logprobs, abs=0.05)
