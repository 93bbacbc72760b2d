"""Entries as text: JSON Lines for all of them, Markdown for insights as a list that people can edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tutelage.errors import InputError
from tutelage.history import add, kind_of, pin, replace
from tutelage.knowledge import Entry, Exemplar, Insight, Knowledge, Reflection

KINDS: dict[str, type[Entry]] = {"exemplar": Exemplar, "insight": Insight, "reflection": Reflection}

_HEAD = """# Insights

Edit the rules, add some, and read them back with `tutelage knowledge import`. The number is how much a rule counts.

"""
_BULLET = re.compile(r"[-*](?: +(?:\((\d{1,9})\) ?)?(.*))?")
_ID = re.compile(r"\s*<!-- id: (\S+) -->\s*$")


@dataclass(frozen=True)
class Item:
    """One entry out of a file, and whether it is to be pinned."""

    entry: Entry
    pinned: bool = False


def to_lines(knowledge: Knowledge) -> str:
    """All entries as JSON Lines."""
    return "".join(json.dumps(as_data(entry, knowledge), ensure_ascii=False) + "\n" for entry in knowledge.entries)


def as_data(entry: Entry, knowledge: Knowledge) -> dict[str, Any]:
    """One entry as JSON: its kind, its content, and whether it is pinned."""
    pinned = {"pinned": True} if entry.id in knowledge.pinned else {}
    kind = kind_of(entry)
    content = entry.model_dump(mode="json", exclude_defaults=True)
    if "kind" in content:  # the kind of its task, beside the kind of entry
        content["task_kind"] = content.pop("kind")
    return {"kind": kind, **content, **pinned}


def to_markdown(knowledge: Knowledge) -> str:
    """The insights as a list; the other entries have no place in it."""
    return _HEAD + "".join(_bullet(insight) for insight in knowledge.insights)


def _bullet(insight: Insight) -> str:
    text = insight.text.replace("\n", "\n  ")
    return f"- ({insight.count}) {text} <!-- id: {insight.id} -->\n"


def read_items(path: Path) -> list[Item]:
    """The entries of a JSON Lines or Markdown file. Raises `InputError` naming file, line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        raise InputError(f"cannot be read: {failed}", file=path) from None
    return list(from_markdown(text, path) if path.suffix.lower() in (".md", ".markdown") else from_lines(text, path))


def from_lines(text: str, path: Path) -> Iterator[Item]:
    """Entries out of JSON Lines."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as broken:
            raise InputError(f"no JSON: {broken}", file=path, line=number) from None
        if not isinstance(data, dict) or data.get("kind") not in KINDS:
            raise InputError(f"each line is one entry with `kind`: {', '.join(KINDS)}", file=path, line=number, field="kind")
        yield _item(data, path, number)


def _item(data: dict[str, Any], path: Path, number: int) -> Item:
    kind, pinned = data.pop("kind"), data.pop("pinned", False) is True
    if "task_kind" in data:
        data["kind"] = data.pop("task_kind")
    try:
        return Item(KINDS[kind].model_validate(data), pinned)
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        raise InputError(problem["msg"], file=path, line=number, field=".".join(map(str, problem["loc"])) or None) from None


def from_markdown(text: str, path: Path) -> Iterator[Item]:
    """Insights out of a list: `- (COUNT) TEXT`, further lines of a text indented by two blanks; all else is passed over."""
    lines: list[str] = []
    begun, count = 0, ""
    for number, line in enumerate([*text.split("\n"), "end"], 1):
        bullet = _BULLET.fullmatch(line)
        if lines and not bullet and (line.startswith("  ") or not line.strip()):
            lines.append(line[2:])
            continue
        if lines:
            yield _insight("\n".join(lines), count, path, begun)
        lines, begun, count = ([bullet[2] or ""], number, bullet[1] or "") if bullet else ([], 0, "")


def _insight(text: str, count: str, path: Path, line: int) -> Item:
    found = _ID.search(text)
    said = (text[: found.start()] if found else text).strip()
    if not said:
        raise InputError("this item has no text; write the rule, or remove the line", file=path, line=line)
    given: dict[str, Any] = {"id": found[1]} if found else {}
    return Item(Insight(text=said, **given, **({"count": max(1, int(count))} if count else {})))


@dataclass(frozen=True)
class Imported:
    """What an import did, as numbers of entries."""

    added: int
    edited: int
    held: int
    unchanged: int


def take_in(knowledge: Knowledge, items: Iterable[Item], *, by: str, note: str) -> tuple[Knowledge, Imported]:
    """Add what is not there and edit what is; everything is screened, and held where the screen finds fault with it."""
    items = list(items)
    before = {entry.id: entry for entry in knowledge.entries}
    waiting = {item.entry.id for item in knowledge.held}
    after = knowledge
    edited = 0
    for item in items:
        old = before.get(item.entry.id)
        if old is not None and not _same(old, item.entry):
            after = replace(after, old.id, item.entry, by=by, action=_verb(old, item.entry), note=note)
            edited += after.find(item.entry.id) == item.entry
    after = add(after, [item.entry for item in items if item.entry.id not in before], by=by, note=note)
    for item in items:
        if item.pinned and after.find(item.entry.id) is not None:
            after = pin(after, item.entry.id, by=by, note=note)
    added = len(after.entries) - len(knowledge.entries)
    held = len({item.entry.id for item in after.held} - waiting)
    return after, Imported(added, edited, held, len(items) - added - edited - held)


def _same(old: Entry, new: Entry) -> bool:
    if isinstance(old, Insight) and isinstance(new, Insight):
        return (old.text.strip(), old.count) == (new.text.strip(), new.count)
    return old == new


def _verb(old: Entry, new: Entry) -> Any:
    if isinstance(old, Insight) and isinstance(new, Insight) and old.text == new.text:
        return "promote" if new.count > old.count else "demote"
    return "edit"
