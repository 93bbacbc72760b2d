"""The parts of `benchmarks/agile.py`: shops that never mix, and the language of its pupil."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch):
    """The benchmark's modules."""
    pytest.importorskip("transformers", reason="extra `train` is not installed")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import agile_pupil
    import agile_shops

    plan = replace(agile_shops.Plan(), sessions=12, practice=2, train=3, held=1, test=2, others=("fact", "search"))
    return plan, agile_shops, agile_pupil


def test_a_stream_stays_in_one_shop_and_no_shop_is_of_two_sides(parts):
    plan, shops, _ = parts
    sides = {side: {shops.shop_of(task) for task in shops.shops(plan, side)} for side in ("practice", "train", "held", "test")}
    assert {side: len(found) for side, found in sides.items()} == {"practice": 2, "train": 3, "held": 1, "test": 2}
    assert len(set.union(*sides.values())) == 8
    questions = shops.shop(plan, "train", 1)
    assert len({task.id for task in questions}) == 12
    assert [task.kind for task in questions].count("reasoning") == 6


def test_streams_visit_every_shop_once_before_any_again(parts):
    plan, shops, _ = parts
    street = shops.Street(shops.shops(plan, "train"), seed=3)
    drawn, visited = 0, []
    for _ in range(6):
        tasks, drawn = street.draw(drawn, 5, set())
        (own,) = {shops.shop_of(task) for task in tasks}
        assert len({task.id for task in tasks}) == 5
        visited.append(own)
    assert set(visited[:3]) == set(visited[3:]) == set(street.shops)
    assert street.draw(2, 5, set()) == shops.Street(shops.shops(plan, "train"), seed=3).draw(2, 5, set())


def test_the_pupil_reads_and_writes_sessions_exactly_and_bears_loss_on_actions_alone(parts):
    from tutelage.training.chat import render_row

    plan, _, pupil = parts
    rows = pupil.practice_rows(plan)
    assert len(rows) == 24
    tokenizer = pupil.pupil_tokenizer(plan, rows)
    encoded = pupil.encode(tokenizer, rows)
    for row, (ids, mask) in zip(rows, encoded, strict=True):
        rendered = render_row(tokenizer, row)
        assert (list(rendered.ids), list(rendered.mask)) == (ids, mask)
        said = tokenizer.decode([id_ for id_, learned in zip(ids, mask, strict=True) if learned], skip_special_tokens=True)
        assert said == "".join(message.text for message in row.completion if message.role == "assistant")
    system = tokenizer.encode(rows[0].prompt[0].text, add_special_tokens=False)
    assert len(system) == 3  # what is always said, the price, what is always said
    odd = "Zx~9 {never} seen\nbefore @ 1234.5"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd
    with pytest.raises(ValueError, match="does not know all characters"):
        pupil.encode(tokenizer, [rows[0].model_copy(update={"prompt": (rows[0].prompt[0].model_copy(update={"content": "日"}),)})])


def test_where_the_table_is_closed_nobody_looks_anything_up(parts):
    plan, shops, pupil = parts
    closed = pupil.VARIANTS.index(("tools",))
    rows = asyncio.run(pupil.shop_rows(plan, closed))
    assert rows
    for row in rows:
        assert not any("sql " in message.text for message in (row.prompt[0], *row.completion))
    assert shops.shop(plan, "practice", closed)[0].id
