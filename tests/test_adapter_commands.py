"""`tutelage adapter list`, `show` and the bad input of all its commands: no torch is needed."""

from __future__ import annotations

import json
import os
import shutil
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tutelage as tt
from tutelage.adapter import MANIFEST, Adapter, adapter_id, find_adapters, read_adapter
from tutelage.budget import Cost
from tutelage.commands.adapter_cli import adapter_app
from tutelage.errors import InputError
from tutelage.records import Experience, Grade
from tutelage.study.learned import LearnedAgent, write_learned


def write_lora(out: Path, values: float, *, base: str = "b", rank: int = 1, facts: dict | None = None, **config: Any) -> Adapter:
    """A LoRA adapter of one layer (2, 3) all of whose entries are one number, written without torch."""
    beside = out / "beside"
    beside.mkdir(parents=True)
    header, content = {}, b""
    for name, shape in (("lora_A", [rank, 3]), ("lora_B", [2, rank])):
        data = struct.pack(f"<{shape[0] * shape[1]}f", *[values] * (shape[0] * shape[1]))
        place = [len(content), len(content) + len(data)]
        header[f"base_model.model.model.layers.0.mlp.up_proj.{name}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": place}
        content += data
    said = json.dumps(header).encode()
    (beside / "adapter_model.safetensors").write_bytes(len(said).to_bytes(8, "little") + said + content)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["up_proj"], **config}
    (beside / "adapter_config.json").write_text(json.dumps(settings))
    which = adapter_id(beside, "lora", base=base, tokenizer="t", template="c")
    made = Adapter(id=which, base=base, base_name=f"toy-{base}", tokenizer="t", template="c", folder=".", facts=facts or {})
    (beside / MANIFEST).write_text(made.model_dump_json())
    beside.rename(out / which)
    return read_adapter(out / which)


def damage(adapter: Adapter) -> None:
    weights = Path(adapter.folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")


def run(*words: str | Path, columns: int = 200) -> str:
    done = CliRunner().invoke(adapter_app, [str(word) for word in words], env={"COLUMNS": str(columns)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


SFT = {"learner": "sft", "trained": {"steps": 30, "loss_last": 0.125}}


# --- list -----------------------------------------------------------------------------------------------------------------------------


def test_the_newest_is_first_and_a_damaged_one_is_listed_with_the_reason(tmp_path: Path):
    old, new, bad = (write_lora(tmp_path / "run" / "adapters", value, facts=SFT) for value in (1, 2, 3))
    for adapter, when in ((old, 100), (new, 300), (bad, 200)):
        os.utime(Path(adapter.folder) / MANIFEST, (when, when))
    damage(bad)
    (tmp_path / "x" / "broken").mkdir(parents=True)
    (tmp_path / "x" / "broken" / MANIFEST).write_bytes(b"\xff\xfe{")
    os.utime(tmp_path / "x" / "broken" / MANIFEST, (50, 50))
    (tmp_path / "run" / ".saving-1").mkdir()
    (tmp_path / "run" / ".saving-1" / MANIFEST).write_text("{}")
    found = find_adapters(tmp_path, tmp_path / "run")
    assert [one.adapter and one.adapter.id for one in found] == [new.id, bad.id, old.id, None]
    assert [bool(one.damage) for one in found] == [False, True, False, True]
    assert "not the one that was saved" in str(found[1].damage)
    assert found[0].size == 5 * 4
    assert find_adapters(new.folder)[0].adapter == new
    assert not any(one.damage for one in find_adapters(tmp_path / "run", whole=False))


def test_the_list_says_what_made_it_and_in_which_arm(tmp_path: Path):
    place = tmp_path / "helpdesk"
    adapter = write_lora(place / "adapters", 1, facts=SFT)
    learned = LearnedAgent(fingerprint="f", arm="sft", seed=3, cost=Cost(), knowledge=tt.Knowledge(), adapter=adapter)
    write_learned(place / "agents" / "sft.json", learned)
    on_the_way = write_lora(place / "training" / "rlvr" / "adapters", 2, facts={"learner": "rlvr", "step": 7})
    rows = {row["id"]: row for row in map(json.loads, run("list", tmp_path, "--json").splitlines())}
    own = rows[adapter.id]
    assert {name: own[name] for name in ("kind", "base", "made_by", "steps", "loss", "learned_by", "worn_by", "damage")} == {
        "kind": "lora",
        "base": "toy-b",
        "made_by": "sft",
        "steps": 30,
        "loss": 0.125,
        "learned_by": ["helpdesk: sft, seed 3"],
        "worn_by": [],
        "damage": None,
    }
    assert rows[on_the_way.id]["learned_by"] == ["helpdesk: rlvr, in training"]
    assert (rows[on_the_way.id]["steps"], rows[on_the_way.id]["loss"]) == (7, None)
    words = run("list", tmp_path)
    for word in (adapter.id, "toy-b", "0.125", "sft, seed 3", "rlvr"):
        assert word in words
    assert "worn by" not in words  # a column in which nothing stands


class Double:
    """A model that wears adapters, offline."""

    native_tools, price = False, None

    def __init__(self, adapter: Adapter | None = None) -> None:
        self.name = f"double{adapter and adapter.id}"

    def with_adapter(self, adapter: Adapter) -> Double:
        return Double(adapter)

    async def complete(self, messages, *, tools=(), sampling=None) -> tt.Completion:
        raise NotImplementedError


def test_the_list_says_whose_episodes_wore_it(tmp_path: Path):
    adapter, other = (write_lora(tmp_path / "a" / "adapters", value) for value in (1, 2))
    agent = tt.Agent(model=Double(), adapter=adapter)
    (tmp_path / "b").mkdir()
    with tt.Store(tmp_path / "b" / "experience.sqlite") as store:
        store.add_agent(agent.version, agent.described())
        episode = tt.Episode(task_id="t", agent_version=agent.version, segments=(), answer="7", stop=tt.StopReason.ANSWERED)
        store.add(Experience(episode=episode, grade=Grade(score=1.0), when=datetime.now(UTC)), study="s", arm="wears")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "experience.sqlite").write_text("no database")
    rows = {row["id"]: row for row in map(json.loads, run("list", tmp_path, "--json").splitlines())}
    assert rows[adapter.id]["worn_by"] == ["b: wears"]
    assert rows[other.id]["worn_by"] == []
    assert (tmp_path / "c" / "experience.sqlite").read_text() == "no database"


def test_an_id_can_be_copied_from_a_narrow_terminal(tmp_path: Path):
    adapter = write_lora(tmp_path / "a-run-of-a-rather-long-name" / "adapters", 1, facts=SFT)
    assert adapter.id in run("list", tmp_path, columns=80)
    assert "learned" not in run("list", tmp_path, columns=80).split("An agent file")[0]


def test_a_list_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "no adapter below" in run("list", tmp_path)
    assert run("list", tmp_path, "--json") == ""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no folder `runs` here"):
        run("list")
    with pytest.raises(InputError, match="no such folder"):
        run("list", tmp_path / "nowhere")
    write_lora(tmp_path / "runs" / "one" / "adapters", 1)
    words = run("list")
    assert "toy-b" in words
    assert " runs/one/adapters " in words


# --- bad input, by command ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "compare", "combine", "fold", "convert"])
def test_a_folder_that_is_no_adapter(tmp_path: Path, command: str):
    more = {"compare": [tmp_path], "combine": ["--out", tmp_path], "fold": ["--out", tmp_path / "x"]}
    more["convert"] = ["--to", "gguf", "--out", tmp_path / "x"]
    with pytest.raises(InputError, match="no adapter here"):
        run(command, tmp_path, *more.get(command, []))


@pytest.mark.parametrize("command", ["show", "compare", "combine", "convert"])
def test_a_damaged_adapter_is_named(tmp_path: Path, command: str):
    good, bad = (write_lora(tmp_path / "adapters", value) for value in (1, 2))
    damage(bad)
    words = {
        "show": [bad.folder],
        "compare": [good.folder, bad.folder],
        "combine": [good.folder, bad.folder, "--out", tmp_path / "x"],
        "convert": [bad.folder, "--to", "peft", "--out", tmp_path / "x"],
    }[command]
    with pytest.raises(InputError, match=rf"{bad.id}.*damaged or edited"):
        run(command, *words)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "tie"], r"`tie` is not a way of combining adapters\. Did you mean `ties`"),
        (["--weights", "1"], "2 adapters and 1 weights"),
        (["--weights", "1,2,3"], "2 adapters and 3 weights"),
        (["--weights", "1,nan"], "a weight is nan"),
        (["--weights", "1,0"], "a weight is 0; .*leave that adapter out"),
        (["--weights", "a,b"], "`a,b` is no list of numbers"),
        (["--method", "ties"], "say which, above 0 and up to 1"),
        (["--method", "ties", "--density", "0"], "above 0 and up to 1"),
        (["--method", "dare_linear", "--density", "1.5"], "above 0 and up to 1"),
        (["--method", "dare_linear", "--density", "nan"], "above 0 and up to 1"),
        (["--density", "0.5"], "`cat` keeps all entries"),
        (["--rank", "4"], "rank of `cat` follows"),
        (["--method", "svd", "--rank", "0"], "1 or more"),
        (["--method", "svd", "--rank", "3"], "no more than 2 rows or columns"),
        (["--method", "ties", "--density", "0.5", "--weights=1,-1"], "elects signs"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, options: list[str], words: str):
    folders = [write_lora(tmp_path / "adapters", value).folder for value in (1, 2)]
    with pytest.raises(InputError, match=words):
        run("combine", *folders, *options, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_adapters_that_cannot_be_combined(tmp_path: Path):
    first = write_lora(tmp_path / "adapters", 1)
    copy = shutil.copytree(first.folder, tmp_path / "copy")
    other = {
        "the same adapter as": copy,
        "another base .*toy-z": write_lora(tmp_path / "z", 1, base="z").folder,
        "use_dora.*plain LoRA": write_lora(tmp_path / "d", 2, use_dora=True).folder,
        "different ranks": write_lora(tmp_path / "p", 2, rank_pattern={"up_proj": 1}).folder,
        "needs adapters of one rank, and these have 1, 2": write_lora(tmp_path / "r", 2, rank=2).folder,
    }
    for words, folder in other.items():
        with pytest.raises(InputError, match=words):
            run("combine", first.folder, folder, "--method", "linear", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="two or more"):
        run("combine", first.folder, "--out", tmp_path / "x")


def test_what_is_there_is_not_written_over(tmp_path: Path):
    adapter = write_lora(tmp_path / "adapters", 1)
    for command in (["fold"], ["convert", "--to", "gguf"], ["convert", "--to", "peft"]):
        with pytest.raises(InputError, match="there already"):
            run(*command, adapter.folder, "--out", tmp_path)


def test_a_base_that_is_not_there(tmp_path: Path):
    adapter = write_lora(tmp_path / "adapters", 1)
    for command in (["fold"], ["convert", "--to", "gguf"]):
        with pytest.raises(InputError, match="no such file"):
            run(*command, adapter.folder, "--out", tmp_path / "x.gguf")
    with pytest.raises(InputError, match="float16 or float32"):
        run("fold", adapter.folder, "--out", tmp_path / "x.gguf", "--dtype", "bfloat16")


# --- compare, where numbers need no base ----------------------------------------------------------------------------------------------


def test_a_comparison_in_words(tmp_path: Path):
    first = write_lora(tmp_path / "a", 1, facts={**SFT, "settings": {"lora": {"r": 1}}})
    second = write_lora(tmp_path / "b", -2, rank=2, facts={**SFT, "settings": {"lora": {"r": 2}}})
    words = run("compare", first.folder, second.folder)
    for word in ("settings.lora.r", "lora_alpha", "model.layers.0.mlp.up_proj", "all layers"):
        assert word in words
    assert "trained.steps" not in words  # the same in both
    data = json.loads(run("compare", first.folder, second.folder, "--json"))
    # the first adds 2 * 1 * 1 to each of 6 entries, the second 2 * 2 * (-2 * -2)
    (layer,) = data["layers"]
    assert layer["norm_first"] == pytest.approx(2 * 6**0.5)
    assert layer["norm_second"] == pytest.approx(16 * 6**0.5)
    assert (layer["cosine"], layer["overlap_in"], layer["overlap_out"]) == pytest.approx((1, 1, 1))
    assert layer["difference"] == pytest.approx(14 / 18)
    assert data["settings"]["r"] == [1, 2]
    assert "the same weights" in run("compare", first.folder, first.folder)
    other = write_lora(tmp_path / "z", 1, base="z")
    words = run("compare", first.folder, other.folder)
    assert "different weights (toy-b and toy-z)" in words
    assert "all layers" not in words
