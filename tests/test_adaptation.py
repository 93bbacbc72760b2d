"""Adapting a model to a language, from files to a folder that agents load; and all that does not go together."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("transformers", reason="extra `train` is not installed")

import torch
from typer.testing import CliRunner

import tutelage as tt
from toy_languages import byte_tokenizer, greek, make_model, sentences
from tutelage.errors import InputError
from tutelage.training import adaptation
from tutelage.training.adaptation import AdaptSettings, Sources, adapt, carried
from tutelage.training.adaptation_models import check_tuned_from, find_pretrained, moved_ids, separator_of
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.embedding_training import EmbeddingSettings, Tables, tables_of
from tutelage.training.embeddings import Shared
from tutelage.training.supervised_job import Interrupted, SFTSettings
from tutelage.training.tokenizer_training import Vocabulary

pytestmark = pytest.mark.torch
LATIN = sentences(200)
TRAINING = EmbeddingSettings(steps=3, learning_rate=3e-3, per_device_train_batch_size=2, max_length=24, dtype="float32")
SETTINGS = AdaptSettings(vocabulary=380, training=TRAINING, calibration=SFTSettings(max_steps=2, per_device_train_batch_size=2))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base without a template or turns, an instruct model with both and other weights, a text, and rows."""
    place = tmp_path_factory.mktemp("models")
    base = byte_tokenizer(LATIN, template=None, added=("<|endoftext|>",))
    instruct = byte_tokenizer(LATIN)
    make_model(place / "base", base, width=16)
    make_model(place / "instruct", instruct, width=16, seed=1)
    (place / "text.txt").write_text("\n".join(greek(text) for text in sentences(400, seed=1)) + "\n")
    rows = [{"prompt": greek(f"the home of {name} ?"), "completion": greek("kelto")} for name in ("dax", "wug", "fep")]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def sources(place: Path, **changes) -> Sources:
    given = {"base": str(place / "base"), "instruct": str(place / "instruct"), "texts": (place / "text.txt",), **changes}
    return Sources(**given)


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    return out, adapt(sources(place, rows=place / "rows.jsonl"), out, SETTINGS)


def test_the_report_says_what_it_came_to(done):
    out, report = done
    before, after = report.tokenizers
    assert after.characters_per_token > 2 * before.characters_per_token
    assert (before.vocabulary, after.vocabulary) == (343, 380)
    assert (report.copied, report.averaged) == (343, 37)
    assert [one.name.partition(", ")[2] for one in report.quality] == [
        "as it was",
        "new vocabulary, untrained",
        "new vocabulary, trained",
        "as it was",
        "new vocabulary, untrained",
        "adapted",
        "adapted and calibrated",
    ]
    assert all(0 < one.bits_per_character < 20 for one in report.quality)
    assert report.quality[2].nats < report.quality[1].nats
    assert report.training["steps"] == 3
    (aligned,) = report.aligned
    assert (aligned.table, aligned.rows, aligned.rank) == ("input and output", 377, 16)
    assert 0 < aligned.residual < aligned.apart
    text = (out / "report.md").read_text()
    assert "characters per token" in text
    assert f"hf:{out / 'calibrated'}" in text
    assert json.loads((out / "report.json").read_text())["copied"] == 343


async def test_agents_load_the_result(done):
    out, _ = done
    for name in ("model", "calibrated"):
        agent = tt.Agent(model=f"hf:{out / name}?dtype=float32", sampling=tt.Sampling(max_tokens=3))
        completion = await agent.load().complete([tt.Message(role="user", content=greek("where ?"))])
        assert completion.usage.tokens_out > 0


def test_the_result_is_what_the_algebra_says(done, place):
    """Every row of the result from the files alone: trained rows times D, and the special tokens the instruct model's."""
    from safetensors.numpy import load_file

    from tutelage.training.embeddings import Table, propagate
    from tutelage.training.tokenizer_training import parts_of

    out, _ = done
    result, instruct, base = (find_pretrained(str(folder)) for folder in (out / "model", place / "instruct", place / "base"))
    new = Vocabulary.of(load_tokenizer(result))
    old = Vocabulary.of(load_tokenizer(instruct))
    tables = [Table(tables_of(load_causal_lm(one, "float32")).input, parts_of(load_tokenizer(one), new)) for one in (base, instruct)]
    trained = load_file(out / "embeddings.safetensors")["input"]
    expected, _ = propagate(trained, *tables, Shared.of(new, old), "conversion")
    found = tables_of(load_causal_lm(result, "float32")).input
    np.testing.assert_array_equal(found, expected)
    end = "<|im_end|>"
    np.testing.assert_array_equal(found[new.ids[end]], tables[1].rows[old.ids[end]])
    untouched = {name: value for name, value in load_causal_lm(instruct).named_parameters() if "embed" not in name}
    assert all(torch.equal(value, dict(load_causal_lm(result).named_parameters())[name]) for name, value in untouched.items())


def test_done_stages_are_not_done_again(done, place, monkeypatch):
    out, report = done
    monkeypatch.setattr(adaptation, "train_embeddings", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(adaptation, "train_sft", lambda *_, **__: pytest.fail("calibrated again"))
    assert adapt(sources(place, rows=place / "rows.jsonl"), out, SETTINGS) == report


def test_interrupted_it_goes_on(place, tmp_path, done):
    stop = threading.Event()
    stop.set()
    plain = sources(place)
    with pytest.raises(Interrupted):
        adapt(plain, tmp_path / "out", SETTINGS, stop=stop)
    assert "training" not in json.loads((tmp_path / "out" / "stages.json").read_text())
    report = adapt(plain, tmp_path / "out", SETTINGS)
    assert [one.nats for one in report.quality] == [one.nats for one in done[1].quality][:6]


def test_replacing_and_keeping_the_adapter(place, tmp_path):
    settings = SETTINGS.model_copy(update={"mode": "replace", "vocabulary": 320, "projection": "overlap", "keep_adapter": True})
    report = adapt(sources(place, rows=place / "rows.jsonl"), tmp_path / "out", settings)
    result = find_base(report.model)
    config = json.loads((result.folder / "config.json").read_text())
    tokenizer = load_tokenizer(result)
    assert config["vocab_size"] == len(tokenizer) == 320
    assert config["eos_token_id"] == tokenizer.eos_token_id == 2, "added tokens come first now"
    agent = tt.Agent(model=f"hf:{report.model}", adapter=report.calibrated)
    assert agent.adapter is not None
    assert "adapter:" in report.text()


def test_held_out_files_are_measured_on(place, tmp_path):
    (tmp_path / "held.txt").write_text(greek("the dax lives in kelto ."))
    settings = SETTINGS.model_copy(update={"projection": "swap"})
    report = adapt(sources(place, held_out=(tmp_path / "held.txt",)), tmp_path / "out", settings)
    assert report.tokenizers[0].characters == len("the dax lives in kelto .")
    assert report.aligned[0].residual == report.aligned[0].apart


def test_layers_that_learned_are_added_to_the_instruct_models(place, tmp_path):
    settings = SETTINGS.model_copy(update={"training": TRAINING.model_copy(update={"train_layers": 1})})
    report = adapt(sources(place), tmp_path / "out", settings)
    from safetensors.numpy import load_file

    changes = load_file(tmp_path / "out" / "embeddings.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    before = dict(load_causal_lm(find_base(str(place / "instruct"))).named_parameters())[name].detach().numpy()
    after = dict(load_causal_lm(find_base(report.model)).named_parameters())[name].detach().numpy()
    assert np.abs(changes[f"layer.{name}"]).max() > 0
    np.testing.assert_array_equal(after, before + changes[f"layer.{name}"])


# Tables that are one or two


def test_what_one_table_learned_goes_to_two():
    """The base's one table to an instruct model's two, each by its own change."""
    chance = np.random.default_rng(0)
    ours, trained = chance.normal(size=(8, 3)), chance.normal(size=(8, 3))
    inside, outside = chance.normal(size=(3, 3)), chance.normal(size=(3, 3))
    parts = tuple((number,) for number in range(8))
    shared = Shared(tuple(range(8)), tuple(range(8)), {})
    theirs = Tables(ours @ inside, ours @ outside)
    found, aligned = carried(Tables(trained), (Tables(ours), parts), (theirs, parts), shared, "conversion")
    np.testing.assert_allclose(found.input, trained @ inside, atol=1e-5)
    np.testing.assert_allclose(found.output, trained @ outside, atol=1e-5)
    assert list(aligned) == ["input", "output"]
    with pytest.raises(InputError, match="cannot hold both"):
        carried(Tables(trained, trained), (Tables(ours, ours), parts), (Tables(ours), parts), shared, "conversion")


# What is refused


def test_another_run_in_the_folder(done, place, tmp_path):
    out, _ = done
    with pytest.raises(InputError, match="holds another run: it differs in calibration rows, projection"):
        adapt(sources(place), out, SETTINGS.model_copy(update={"projection": "swap"}))
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="something else here"):
        adapt(sources(place), tmp_path, SETTINGS)


def test_models_that_do_not_belong_together(place, tmp_path):
    make_model(tmp_path / "wide", byte_tokenizer(LATIN), width=32)
    with pytest.raises(InputError, match=r"not tuned from this base: hidden_size 16 and 32; intermediate_size 32 and 64"):
        adapt(sources(place, instruct=str(tmp_path / "wide")), tmp_path / "out", SETTINGS)
    make_model(tmp_path / "other", byte_tokenizer([greek(text) for text in LATIN]), width=16)
    with pytest.raises(InputError, match="different tokenizers"):
        adapt(sources(place, instruct=str(tmp_path / "other")), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_quantised_weights_and_missing_rows(place, tmp_path):
    quantised = shutil.copytree(place / "instruct", tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match=r"quantised: field `INSTRUCT`: the weights are quantised"):
        check_tuned_from(find_pretrained(str(place / "base")), find_base(str(quantised)))
    short = shutil.copytree(place / "instruct", tmp_path / "short")
    (short / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(InputError, match="ids up to 342, and the model 300 rows"):
        check_tuned_from(find_pretrained(str(place / "base")), find_base(str(short)))


def test_an_instruct_model_needs_a_template(place, tmp_path):
    with pytest.raises(InputError, match="no chat template"):
        adapt(sources(place, instruct=str(place / "base")), tmp_path / "out", SETTINGS)


def test_rows_that_cannot_be_learned_are_found_before_training(place, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x" * 3000, "completion": "y"}) + "\n")
    with pytest.raises(InputError, match="longer than max_length"):
        adapt(sources(place, rows=tmp_path / "rows.jsonl"), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_ids_follow_their_tokens():
    class Settings:
        bos_token_id, eos_token_id, pad_token_id = None, [3, 5], 5

    class Model:
        config = Settings()

    moved_ids(Model, {"<end>": 3, "<pad>": 5}, {"<end>": 0})
    assert (Settings.bos_token_id, Model.config.eos_token_id, Model.config.pad_token_id) == (None, [0], None)


def test_the_separator_is_one_that_both_know(place):
    tokenizers = [load_tokenizer(find_pretrained(str(place / name))) for name in ("base", "instruct")]
    assert separator_of(*tokenizers) == "<|endoftext|>"
    bare = byte_tokenizer(LATIN, added=())
    assert separator_of(bare, tokenizers[1]) == "Ċ"


# The command


def command():
    import typer

    from tutelage.commands.adapt_cli import adapt as from_the_shell

    app = typer.Typer()
    app.command()(from_the_shell)
    return app


def test_the_command(place, tmp_path):
    words = [str(place / "base"), str(place / "instruct"), "--text", str(place / "text.txt"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command(), [*words, "--vocabulary", "370", "--steps", "2", "--block", "24", "--batch", "2"])
    assert done.exit_code == 0, done.output
    assert "characters per token" in done.output
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    wrong = CliRunner().invoke(command(), [*words, "--vocabulary", "370", "--steps", "3"])
    assert isinstance(wrong.exception, InputError)
    assert "it differs in training" in str(wrong.exception)


def test_its_help_teaches():
    shown = CliRunner().invoke(command(), ["--help"], env={"COLUMNS": "200"}).output
    for word in ("2412.21140", "--projection", "--calibrate", "report.md", "Run the same command again"):
        assert word in shown
