"""Changing by hand what an agent knows, and taking entries in and out."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape

from tutelage import history
from tutelage.commands.knowledge_files import KnowledgeFile, open_knowledge
from tutelage.commands.knowledge_text import read_items, take_in, to_lines, to_markdown
from tutelage.commands.knowledge_view import PREFIX, choose, held_entries, safe
from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.history import kind_of, text_of
from tutelage.knowledge import Entry, Exemplar, Insight, Knowledge, Reflection
from tutelage.records import Message

_MESSAGES = TypeAdapter(tuple[Message, ...])


def person(name: str | None) -> str:
    """Who makes a change: `person:NAME`, by default the system's user."""
    if name is None:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a system without such a thing
            return "person"
    name = name.strip().removeprefix("person:")
    return f"person:{name}" if name else "person"


def add_insight(file: str, arm: str | None, text: str | None, *, count: int, by: str | None, note: str) -> None:
    """Add a rule; without a text, out of the editor. A file that is not there is made."""
    opened = open_knowledge(file, arm, create=True)
    said = (text if text is not None else edit_text("", ".txt")).strip()
    if not said:
        raise InputError("the rule has no words; nothing was added", field="TEXT")
    for entry in (*opened.knowledge.insights, *held_entries(opened.knowledge)):
        if isinstance(entry, Insight) and entry.text == said:
            way = (
                "`promote` lets it count more" if opened.knowledge.find(entry.id) == entry else "it is held, and `release` lets it be shown"
            )
            raise InputError(f"this rule is there already, as {entry.id[:PREFIX]}; {way}", field="TEXT")
    after = history.add(opened.knowledge, [Insight(text=said, count=count)], by=person(by), note=note)
    _save(opened, after, f"added {after.history[-1].entry_id[:PREFIX]}")


def edit_entry(file: str, arm: str | None, prefix: str, text: str | None, *, by: str | None, note: str) -> None:
    """Change an entry's words; without a text, in the editor."""
    opened = open_knowledge(file, arm)
    entry = choose(opened.knowledge.entries, prefix)
    new = _edited(entry, text)
    if text_of(new) == text_of(entry):
        print("nothing was changed")
        return
    after = history.replace(opened.knowledge, entry.id, new, by=person(by), note=note)
    _save(opened, after, f"edited {entry.id[:PREFIX]}" + (f", now {new.id[:PREFIX]}" if new.id != entry.id else ""))


def _edited(entry: Entry, text: str | None) -> Entry:
    if isinstance(entry, Exemplar):
        return _edited_exemplar(entry, text)
    said = (text if text is not None else edit_text(entry.text, ".txt")).strip()
    if not said and not (isinstance(entry, Reflection) and entry.trajectory):
        raise InputError("the entry would have no words; `tutelage knowledge remove` takes it out", field="TEXT")
    return entry if said == entry.text.strip() else entry.model_copy(update={"text": said})


def _edited_exemplar(exemplar: Exemplar, text: str | None) -> Exemplar:
    """With another last answer, or with messages edited as JSON; what retrieval compares stays as it is."""
    if text is not None:
        last = exemplar.messages[-1] if exemplar.messages else None
        if last is None or last.role != "assistant" or last.tool_calls:
            raise InputError("this exemplar does not end with plain words; leave TEXT out to edit its messages as JSON", field="TEXT")
        return exemplar.model_copy(update={"messages": (*exemplar.messages[:-1], last.model_copy(update={"content": text}))})
    content = [message.model_dump(mode="json", exclude_defaults=True) for message in exemplar.messages]
    written = edit_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", ".json")
    try:
        messages = _MESSAGES.validate_json(written)
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(f"these are no messages ({where or 'JSON'}: {problem['msg']}); nothing was changed") from None
    return exemplar.model_copy(update={"messages": messages})


def change_entry(file: str, arm: str | None, prefix: str, what: str, *, by: str | None, **options: Any) -> None:
    """promote, demote, pin, unpin or remove an entry that stands."""
    opened = open_knowledge(file, arm)
    entry = choose(opened.knowledge.entries, prefix)
    change: Callable[..., Knowledge] = getattr(history, what)
    after = change(opened.knowledge, entry.id, by=person(by), **options)
    if after == opened.knowledge:
        print(f"nothing was changed: {entry.id[:PREFIX]} is {what}ned already" if what in ("pin", "unpin") else "nothing was changed")
        return
    now = after.find(entry.id)
    counts = f", counts {now.count} now" if isinstance(now, Insight) and what in ("promote", "demote") else ""
    _save(opened, after, f"{_PAST[what]} {entry.id[:PREFIX]}{counts}")


_PAST = {"promote": "promoted", "demote": "demoted", "pin": "pinned", "unpin": "unpinned", "remove": "removed"}


def settle_held(file: str, arm: str | None, prefix: str, *, keep: bool, by: str | None, note: str) -> None:
    """Release an entry that is held, or throw it away."""
    opened = open_knowledge(file, arm)
    if not opened.knowledge.held:
        raise InputError("nothing is held here", file=opened.path)
    entry = choose(held_entries(opened.knowledge), prefix)
    if keep:
        _save(opened, history.release(opened.knowledge, entry.id, by=person(by), note=note), f"released {entry.id[:PREFIX]}")
    else:
        after = history.remove(opened.knowledge, entry.id, by=person(by), note=note, held=True)
        _save(opened, after, f"removed {entry.id[:PREFIX]}, which was held")


def undo_changes(file: str, arm: str | None, *, steps: int, to: int | None, by: str | None) -> None:
    """Take back the last changes, or go to an earlier or later snapshot; the history keeps all."""
    opened = open_knowledge(file, arm)
    if to is not None:
        _save(opened, history.restore(opened.knowledge, to, by=person(by)), f"back at snapshot {to}")
        return
    _save(opened, history.undo(opened.knowledge, by=person(by), steps=steps), f"took back {steps} change{'s' if steps > 1 else ''}")


def _save(opened: KnowledgeFile, after: Knowledge, said: str) -> None:
    """Write, then say what was done and what is held now."""
    opened.save(after)
    fresh = [item for item in after.held if item not in opened.knowledge.held]
    console = Console()
    if not fresh:
        console.print(f"{said}; this is snapshot {len(after.history)}", highlight=False)
    for item in fresh:
        console.print(f"[bold]held[/bold] {item.entry.id[:PREFIX]}: it {escape(safe(', and '.join(item.reasons)))}", highlight=False)
        said = f"If it is meant, release it: tutelage knowledge release {opened.path} {item.entry.id[:PREFIX]}"
        console.print(escape(said), soft_wrap=True, highlight=False)


def export_entries(file: str, arm: str | None, out: Path | None, format: str | None) -> None:
    """Write all entries as JSON Lines, or the insights as a Markdown list."""
    knowledge = open_knowledge(file, arm).knowledge
    kind = format or ("md" if out is not None and out.suffix.lower() in (".md", ".markdown") else "jsonl")
    if kind not in ("md", "jsonl"):
        raise InputError(f"`{kind}` is not a format; use jsonl or md", field="--format")
    text = to_markdown(knowledge) if kind == "md" else to_lines(knowledge)
    if out is None:
        print(text, end="")
        return
    write_atomically(out, text)
    kinds = Counter(kind_of(entry) for entry in (knowledge.insights if kind == "md" else knowledge.entries))
    left = len(knowledge.entries) - sum(kinds.values())
    print(f"{out}: {', '.join(f'{number} {name}s' for name, number in kinds.items()) or 'no entry'}")
    if left:
        print(f"{left} entries of other kinds were left out: Markdown holds insights only, .jsonl holds all")


def import_entries(file: str, arm: str | None, source: Path, *, by: str | None, note: str) -> None:
    """Take in entries that were exported, written or edited elsewhere. A file that is not there is made."""
    opened = open_knowledge(file, arm, create=True)
    after, done = take_in(opened.knowledge, read_items(source), by=person(by), note=note or f"imported from {source.name}")
    said = f"{done.added} added, {done.edited} edited, {done.held} held, {done.unchanged} as they were"
    if after == opened.knowledge:
        print(f"{said}. Nothing was changed")
        return
    opened.save(after)
    print(said)
    if done.held:
        print(f"Held entries wait for a person: tutelage knowledge list {opened.path} --held")


def edit_text(text: str, suffix: str) -> str:
    """What a person makes of a text in $VISUAL or $EDITOR. Raises `InputError` where no editor can be run, or it ends with an error."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise InputError("no editor is named; set EDITOR, or give the text on the command line")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"entry{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            ended = subprocess.run([*shlex.split(command), str(path)], check=False)  # noqa: S603 (the person's own editor)
        except (OSError, ValueError) as failed:
            raise InputError(f"the editor `{command}` cannot be run: {failed}") from None
        if ended.returncode != 0:
            raise InputError(f"the editor ended with an error ({ended.returncode}); nothing was changed")
        return path.read_text(encoding="utf-8")
