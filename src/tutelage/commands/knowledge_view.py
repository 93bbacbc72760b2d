"""Reading what an agent knows: tables, single entries, the history, differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tutelage.commands.knowledge_files import open_knowledge
from tutelage.commands.knowledge_text import as_data
from tutelage.errors import InputError
from tutelage.history import FIELD, Difference, diff, kind_of, text_of
from tutelage.knowledge import Change, Entry, Evidence, Exemplar, Insight, Knowledge, Reflection

PREFIX = 8
"""Characters of an id that are shown."""
SHOWN = 90
"""Characters of a text that a table shows."""


def choose(entries: Iterable[Entry], prefix: str) -> Entry:
    """The one entry whose id begins so. Raises `InputError` where there is none or several."""
    found = {entry.id: entry for entry in entries if entry.id.startswith(prefix)} if prefix else {}
    exact = found.get(prefix)
    if exact is None and len(found) > 1:
        raise InputError(f"`{prefix}` begins several ids: {', '.join(sorted(found)[:5])}. Write more of it", field="ID")
    if not found:
        raise InputError(f"no entry's id begins with `{prefix}`; `tutelage knowledge list FILE` shows the ids", field="ID")
    return exact or next(iter(found.values()))


def held_entries(knowledge: Knowledge) -> list[Entry]:
    """The entries that wait for a person."""
    return [item.entry for item in knowledge.held]


def list_entries(file: str, arm: str | None, *, kind: str | None, held: bool, as_json: bool) -> None:
    """Print the entries as a table, then what is held and why; as JSON, one entry a line."""
    opened = open_knowledge(file, arm)
    knowledge = opened.knowledge
    if kind is not None and kind not in FIELD:
        raise InputError(f"`{kind}` is not a kind; use exemplar, insight or reflection", field="--kind")
    facts = _Facts(knowledge)
    shown = [entry for entry in knowledge.entries if not held and (kind is None or kind_of(entry) == kind)]
    waiting = [item for item in knowledge.held if kind is None or kind_of(item.entry) == kind]
    if as_json:
        for entry in shown:
            print(json.dumps(facts.row(entry), ensure_ascii=False))
        for item in waiting:
            print(json.dumps({**facts.row(item.entry), "held": list(item.reasons)}, ensure_ascii=False))
        return
    console = Console()
    if shown:
        console.print(_table(shown, facts))
    for item in waiting:
        console.print(f"[bold]held[/bold] {item.entry.id[:PREFIX]} {kind_of(item.entry)}: {cut(text_of(item.entry))}")
        console.print(f"     because it {escape(safe(', and '.join(item.reasons)))}", highlight=False)
    if waiting:
        console.print("A held entry is not shown to the agent until a person releases it: tutelage knowledge release FILE ID")
    if not shown and not waiting:
        console.print("nothing is known yet" if not knowledge.entries else "no such entry")


class _Facts:
    """What is known about entries: who touched them last, the episodes that they came from, and their measured worth."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.last: dict[str, Change] = {change.entry_id: change for change in knowledge.history}
        self.episodes: dict[str, dict[str, None]] = {}
        for change in knowledge.history:
            self.episodes.setdefault(change.entry_id, {}).update(dict.fromkeys(change.episodes))

    def row(self, entry: Entry) -> dict[str, Any]:
        """The entry and what is known about it, as JSON."""
        last = self.last.get(entry.id)
        evidence = self.knowledge.evidence.get(entry.id, Evidence())
        return {
            "id": entry.id,
            **as_data(entry, self.knowledge),
            "worth": evidence.worth,
            "worth_interval": None if evidence.low is None else [evidence.low, evidence.high],
            "from_episodes": list(self.episodes.get(entry.id, ())),
            "by": last.by if last else None,
            "when": last.when.isoformat() if last else None,
        }


def _table(entries: Sequence[Entry], facts: _Facts) -> Table:
    """Columns in which nothing stands are left out, so that the texts have room."""
    cells = {
        "id": [entry.id[:PREFIX] for entry in entries],
        "kind": [kind_of(entry) for entry in entries],
        "text": [cut(text_of(entry)) for entry in entries],
        "count": [str(entry.count) if isinstance(entry, Insight) else "" for entry in entries],
        "pinned": ["pinned" if entry.id in facts.knowledge.pinned else "" for entry in entries],
        "worth": [_worth(facts.knowledge.evidence.get(entry.id)) for entry in entries],
        "from task": [_from(list(facts.episodes.get(entry.id, ()))) for entry in entries],
        "by": [escape(safe(facts.last[entry.id].by)) if entry.id in facts.last else "" for entry in entries],
    }
    shown = {name: column for name, column in cells.items() if any(column)}
    table = Table(*(Column(name, min_width=30, ratio=1) if name == "text" else Column(name) for name in shown))
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _worth(evidence: Evidence | None) -> str:
    if evidence is None or evidence.worth is None:
        return ""
    interval = "" if evidence.low is None or evidence.high is None else f" ({evidence.low:+.2f} to {evidence.high:+.2f})"
    return f"{evidence.worth:+.2f}{interval}"


def _from(episodes: Sequence[str]) -> str:
    """The task of the first episode, and how many more there are; `show` and `--json` name them all."""
    tasks = [episode.split("/")[1][:PREFIX] if "/" in episode else episode[:PREFIX] for episode in episodes]
    return escape(safe(tasks[0] + (f" +{len(tasks) - 1}" if len(tasks) > 1 else ""))) if tasks else ""


def show_entry(file: str, arm: str | None, prefix: str) -> None:
    """Print one entry whole, with its history."""
    knowledge = open_knowledge(file, arm).knowledge
    entry = choose((*knowledge.entries, *held_entries(knowledge)), prefix)
    console = Console()
    facts = _Facts(knowledge)
    if knowledge.find(entry.id) is not None:
        _print_entry(console, entry, _worth(knowledge.evidence.get(entry.id)), pinned=entry.id in knowledge.pinned)
    for item in knowledge.held:
        if item.entry.id == entry.id:
            console.print(f"\n[bold]held[/bold], because it {escape(safe(', and '.join(item.reasons)))}:", highlight=False)
            _print_entry(console, item.entry, "", pinned=False)
    for episode in facts.episodes.get(entry.id, ()):
        console.print(f"from episode {escape(safe(episode))}", highlight=False)
    changes = [(number, change) for number, change in enumerate(knowledge.history, 1) if change.entry_id == entry.id]
    console.print(_history_table(knowledge, changes))


def _print_entry(console: Console, entry: Entry, worth: str, *, pinned: bool) -> None:
    count = f", counts {entry.count}" if isinstance(entry, Insight) else ""
    console.print(f"[bold]{kind_of(entry)} {entry.id}[/bold]{count}{', pinned' if pinned else ''}{f', worth {worth}' if worth else ''}")
    if isinstance(entry, Exemplar):
        for message in entry.messages:
            calls = "".join(f"\n{call.name}({call.arguments})" for call in message.tool_calls)
            console.print(f"[bold]{message.role}[/bold]  {escape(safe(message.text + calls))}", highlight=False)
        return
    if isinstance(entry, Reflection):
        console.print(f"[bold]task[/bold]  {escape(safe(entry.task_text))}", highlight=False)
    console.print(escape(safe(text_of(entry))), highlight=False)


def print_history(file: str, arm: str | None, prefix: str | None, *, limit: int, as_json: bool) -> None:
    """Print the last changes, of all entries or of one, the newest last."""
    knowledge = open_knowledge(file, arm).knowledge
    numbered = list(enumerate(knowledge.history, 1))
    if prefix is not None:
        numbered = [(number, change) for number, change in numbered if change.entry_id.startswith(prefix)]
    if not numbered:
        print("nothing was changed yet" if prefix is None else f"no change of an entry whose id begins with {prefix}")
    elif as_json:
        for number, change in numbered[-limit:]:
            print(json.dumps({"n": number, **change.model_dump(mode="json", exclude_defaults=True)}, ensure_ascii=False))
    else:
        Console().print(_history_table(knowledge, numbered[-limit:]))


def _history_table(knowledge: Knowledge, changes: Iterable[tuple[int, Change]]) -> Table:
    table = Table(Column("n", justify="right"), "when", "by", "did", "id", Column("words", ratio=1))
    for number, change in changes:
        words = change.note or (f"before: {text_of(change.before)}" if change.before else "")
        when = change.when.strftime("%Y-%m-%d %H:%M")
        table.add_row(str(number), when, escape(safe(change.by)), change.action, change.entry_id[:PREFIX], cut(words))
    return table


def print_diff(a: str, b: str, arm: str | None, *, as_json: bool) -> None:
    """Print what changed from one snapshot to another."""
    one, other = open_knowledge(a, arm).knowledge, open_knowledge(b, arm).knowledge
    found = diff(one, other)
    if as_json:
        print(json.dumps(_difference(found, one, other), ensure_ascii=False))
        return
    console = Console()
    for sign, colour, entries in (("+", "green", found.added), ("-", "red", found.removed)):
        for entry in entries:
            console.print(f"[{colour}]{sign}[/{colour}] {entry.id[:PREFIX]} {kind_of(entry)}: {cut(text_of(entry))}", highlight=False)
    for before, after in found.edited:
        console.print(f"[red]-[/red] {before.id[:PREFIX]} {kind_of(before)}: {cut(text_of(before))}", highlight=False)
        console.print(f"[green]+[/green] {after.id[:PREFIX]} {kind_of(after)}: {cut(text_of(after))}", highlight=False)
    for old, new in found.recounted:
        console.print(f"  {new.id[:PREFIX]} counts {new.count} instead of {old.count}: {cut(new.text)}", highlight=False)
    for ids, what in ((found.pinned, "pinned"), (found.unpinned, "not pinned any more")):
        for entry_id in ids:
            console.print(f"  {entry_id[:PREFIX]} {what}", highlight=False)
    if not found:
        console.print("no difference")


def _difference(found: Difference, one: Knowledge, other: Knowledge) -> dict[str, Any]:
    return {
        "added": [as_data(entry, other) for entry in found.added],
        "removed": [as_data(entry, one) for entry in found.removed],
        "edited": [[as_data(before, one), as_data(after, other)] for before, after in found.edited],
        "recounted": [{"id": after.id, "from": before.count, "to": after.count} for before, after in found.recounted],
        "pinned": list(found.pinned),
        "unpinned": list(found.unpinned),
    }


def cut(text: str) -> str:
    """A text on one line, shortened, for a rich table."""
    line = " ".join(safe(text).split())
    return escape(line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}...")


def safe(text: str) -> str:
    """Without the control characters by which a text could command the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)
