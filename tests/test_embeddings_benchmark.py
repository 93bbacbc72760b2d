"""The parts of `benchmarks/embeddings.py`: its two languages, and the script as a whole in the smallest setting."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def languages(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import embeddings_languages

    return embeddings_languages


def test_the_two_languages_say_the_same_in_other_words(languages):
    world = languages.World(languages.QUICK, 0)
    latin, greek = (world.sentences(200, language, random.Random(1)) for language in ("latin", "greek"))
    back = {other: word for word, other in world.words.items()}
    assert len(back) == len(world.words), "each word has one of its own"
    assert ["".join(f" {back.get(word, word)}" for word in text.split()) for text in greek] == latin
    assert not {*" ".join(latin)} & {*" ".join(greek)} - {" ", "."}
    assert all(any(name in text and value in text for (name, _), value in world.facts.items()) for text in latin)


def test_questions_of_the_test_are_not_tuned_on(languages):
    world = languages.World(languages.QUICK, 0)
    tuned, untuned = (world.rows("greek", names) for names in (world.tuned, world.untuned))
    assert (len(tuned), len(untuned)) == (15, 9)
    assert not {row.prompt for row in tuned} & {row.prompt for row in untuned}
    (row,) = world.rows("latin", world.names[:1])[:1]
    assert row.prompt[0].text == f" the home of {world.names[0]} is"
    assert row.completion[0].text == f" {world.facts[world.names[0], 'place']}"


@pytest.mark.torch
def test_the_script_runs(tmp_path):
    pytest.importorskip("torch", reason="extra `train` is not installed")
    pytest.importorskip("trl", reason="extra `train` is not installed")
    words = [
        sys.executable,
        str(BENCHMARKS / "embeddings.py"),
        "--quick",
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(tmp_path / "table.json"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "table.json").read_text())
    assert [row["arm"] for row in data["rows"]] == [
        *(
            "before",
            "mean",
            "mean + calibration",
            "direct",
            "direct + calibration",
            "swap",
            "overlap",
            "conversion",
            "conversion + calibration",
        )
    ]
    (measured,) = data["measured"]
    assert measured["characters_per_token"]["after"] > 4 * measured["characters_per_token"]["before"]
    assert all(0 <= row["greek"]["interval"][0] <= row["greek"]["score"] <= row["greek"]["interval"][1] <= 1 for row in data["rows"])
