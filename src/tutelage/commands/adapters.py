"""What the commands of `tutelage adapter` print: lists, comparisons, and what was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy import select

from tutelage.adapter import Adapter, FoundAdapter, find_adapters, read_adapter, read_config, stored_tensors
from tutelage.errors import InputError, TutelageError
from tutelage.experience.database import Database
from tutelage.experience.tables import agents, episodes
from tutelage.study.learned import read_any_learned
from tutelage.training.adapter_arithmetic import Combination, combine_adapters
from tutelage.training.adapter_compare import AdapterComparison, LayerDifference, compare_adapters
from tutelage.training.base import find_base

RUNS = Path("runs")
"""Where adapters are looked for by default."""
WIDE, LEFT_OUT, UNCUT = 130, ("learned_by", "worn_by", "steps", "mb"), ("id", "when", "kind")
"""In a terminal of fewer columns these are left out; those are never cut, so that an id can be copied."""


def list_adapters(folders: Sequence[Path], *, whole: bool, as_json: bool) -> None:
    """Print all adapters below the folders, what made them, and which agents of the runs there wear them."""
    if not folders and not RUNS.is_dir():
        raise InputError("there is no folder `runs` here; name the folders to look in", field="FOLDER")
    places = list(folders) or [RUNS]
    found = find_adapters(*places, whole=whole)
    worn = _worn_by(places)
    rows = [_row(one, worn) for one in found]
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif rows:
        _print_list(rows)
    else:
        print(f"no adapter below {', '.join(map(str, places))}; training writes them to RUN/adapters/")


def _row(found: FoundAdapter, worn: Mapping[str, set[str]]) -> dict[str, JsonValue]:
    adapter = found.adapter
    row: dict[str, JsonValue] = {"id": None, "folder": str(found.folder), "damage": found.damage}
    row |= {"mb": round(found.size / 1e6, 1), "when": datetime.fromtimestamp(found.when, UTC).isoformat(timespec="seconds")}
    if adapter is None:
        return row
    said: Any = adapter.facts
    trained = said.get("trained") if isinstance(said.get("trained"), dict) else {}
    return {
        **row,
        "id": adapter.id,
        "kind": adapter.kind,
        "base": adapter.base_name,
        "made_by": said.get("learner") or _arithmetic(said),
        "steps": trained.get("steps", said.get("step")),
        "loss": trained.get("loss_last"),
        "learned_by": list(_learned_by(found.folder, adapter.id)),
        "worn_by": sorted(worn.get(adapter.id, ())),
    }


def _arithmetic(facts: Mapping[str, Any]) -> str | None:
    if facts.get("made_by") != "combine":
        return None
    parents = ", ".join(f"{parent['weight']:g} {parent['id'][:8]}" for parent in facts.get("parents", []))
    return f"combine {facts.get('method')} of {parents}"


def _learned_by(folder: Path, which: str) -> list[str]:
    """The arms of a study whose learning ended with these weights; or, of one that is not done, the arm whose training wrote them."""
    place = folder.parent.parent
    if place.parent.name == "training":
        return [f"{place.parent.parent.name}: {place.name}, in training"]
    learned = (read_any_learned(path) for path in sorted((place / "agents").glob("*.json")))
    return [f"{place.name}: {one.arm}, seed {one.seed}" for one in learned if one and one.adapter and one.adapter.id == which]


def _worn_by(places: Iterable[Path]) -> dict[str, set[str]]:
    """Id of an adapter -> the arms, as RUN: ARM, whose agents wore it in an episode that the stores below these folders hold."""
    worn: dict[str, set[str]] = {}
    for store in {path.absolute() for place in places for path in place.rglob("experience.sqlite")}:
        with suppress(TutelageError):  # a store that is damaged or of a later version says so where it is read for itself
            for arm, described in _agents_of(store):
                for which in _adapters_in(json.loads(described)):
                    worn.setdefault(which, set()).add(f"{store.parent.name}: {arm or '(no arm)'}")
    return worn


def _agents_of(store: Path) -> list[tuple[str, str]]:
    database = Database(str(store))
    try:
        query = select(episodes.c.arm, agents.c.described).distinct()
        return [tuple(row) for row in database.rows(query.join_from(episodes, agents, agents.c.version == episodes.c.agent_version))]
    finally:
        database.close()


def _adapters_in(described: Any) -> set[str]:
    """Of an agent, and of the parts of its workflow."""
    if isinstance(described, list):
        return {which for item in described for which in _adapters_in(item)}
    if not isinstance(described, dict):
        return set()
    own = described.get("adapter")
    return ({own} if isinstance(own, str) else set()) | _adapters_in(list(described.values()))


def _print_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns in which nothing stands are left out; what is damaged follows below, with the reason."""
    console = Console()
    titles = {"id": "id", "kind": "kind", "base": "base", "made_by": "made by", "steps": "steps", "loss": "loss", "mb": "MB"}
    titles |= {"when": "when", "learned_by": "learned by", "worn_by": "worn by", "folder": "in"}
    good = [row for row in rows if row["damage"] is None]
    shown = [name for name in titles if any(row[name] not in (None, []) for row in good)]
    if console.width < WIDE:
        shown = [name for name in shown if name not in LEFT_OUT]
    if good:
        table = Table(*(Column(titles[name], no_wrap=name in UNCUT, overflow="fold") for name in shown))
        for row in good:
            table.add_row(*(escape(_cell(name, row[name])) for name in shown))
        console.print(table)
        console.print("An agent file wears one with `adapter: FOLDER/ID`.", highlight=False)
        if console.width < WIDE:
            console.print("A wider terminal, or --json, shows also which arms learned it and wear it.", highlight=False)
    for row in rows:
        if row["damage"] is not None:
            console.print(f"[bold]damaged[/bold] {escape(str(row['damage']))}", highlight=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "when":
        return str(value)[:16].replace("T", " ")
    if name == "folder":
        return _from_here(Path(value).parent)
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:.4g}" if isinstance(value, float) and name == "loss" else str(value)


def _from_here(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def print_comparison(first: Path, second: Path, *, base: str | None, top: int, as_json: bool) -> None:
    """Print the settings that differ, the whole in one line, and the layers that differ most."""
    one, other = read_adapter(first), read_adapter(second)
    needs_base = "full" in (one.kind, other.kind) and one.base == other.base
    found = compare_adapters(one, other, find_base(base or one.base_name) if needs_base else None)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), ensure_ascii=False))
        return
    console = Console()
    _print_settings(console, found)
    if found.overall is not None:
        _print_layers(console, found.overall, found.layers[:top])
        if len(found.layers) > top:
            console.print(f"[dim]the {top} of {len(found.layers)} layers that differ most; --top N shows more[/dim]", highlight=False)
    for words in found.left_out:
        console.print(f"not compared: {escape(words)}", highlight=False, soft_wrap=True)


def _print_settings(console: Console, found: AdapterComparison) -> None:
    if found.first == found.second:
        console.print("the same weights: both have the same id", highlight=False)
    if not found.differing:
        console.print("the same settings", highlight=False)
        return
    table = Table("setting", found.first, found.second, title=f"{len(found.differing)} settings differ", title_justify="left")
    for name, pair in found.differing.items():
        table.add_row(name, *(escape("" if value is None else _short(value)) for value in pair))
    console.print(table)


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _print_layers(console: Console, overall: LayerDifference, layers: Sequence[LayerDifference]) -> None:
    table = Table("layer", "norm of first", "of second", "cosine", "difference", "overlap in", "out", title_justify="left")
    for layer in (overall, *layers):
        numbers = (layer.norm_first, layer.norm_second, layer.cosine, layer.difference, layer.overlap_in, layer.overlap_out)
        table.add_row(layer.name, *("" if number is None else f"{number:.3g}" for number in numbers))
    console.print(table)


def combine_folders(folders: Sequence[Path], out: Path, how: Combination) -> None:
    """Combine, and say what came of it."""
    made = combine_adapters([read_adapter(folder) for folder in folders], out, how)
    parents: Any = made.facts.get("parents")
    for parent, folder in zip(parents, folders, strict=False):
        print(f"{parent['weight']:+g} times {parent['id']} ({folder})")
    print(f"{made.folder}: {made.facts.get('method')}, rank {made.facts.get('rank')}")
    print(f"Whether it is any better: tutelage eval AGENT.yaml --tasks FILE --grader NAME, with `adapter: {made.folder}` in the agent file")


def describe(adapter: Adapter) -> list[str]:
    """What an adapter is, in lines."""
    folder = Path(adapter.folder)
    tensors = stored_tensors(folder)
    config = read_config(folder, adapter.kind)
    size = sum(tensor.end - tensor.start for tensor in tensors.values())
    rank = f"LoRA of rank {config['r']}, alpha {config['lora_alpha']:g}" if adapter.kind == "lora" else "all weights"
    return [
        f"id: {adapter.id}",
        f"what: {rank}; {len(tensors)} tensors, {size / 1e6:,.1f} MB",
        f"trained on: {adapter.base_name} (weights {adapter.base}, tokenizer {adapter.tokenizer}, chat template {adapter.template})",
        *(f"{name}: {value}" for name, value in adapter.facts.items()),
    ]


def written(path: Path) -> str:
    """A file or folder that was written, with its size."""
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{path}: {sum(file.stat().st_size for file in files if file.is_file()) / 1e6:,.1f} MB"
