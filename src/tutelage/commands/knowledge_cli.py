"""`tutelage knowledge`: its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

knowledge_app = typer.Typer(
    no_args_is_help=True,
    help="Read and change by hand what an agent knows: exemplars, insights and reflections, with their whole history.\n\n"
    "FILE is a learned agent's JSON (RUN/agents/ARM.json), a file of knowledge alone, or a run's folder with --arm. "
    "FILE@n is what the first n changes made. What people change here, later learning leaves as it is.",
)

File = Annotated[str, typer.Argument(metavar="FILE", help="A learned agent's JSON, a file of knowledge, FILE@n, or a run's folder.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The entry's id, or enough of its beginning.")]
Arm = Annotated[str | None, typer.Option("--arm", help="With a run's folder: which arm.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who makes the change (default: the system's user).")]
Note = Annotated[str, typer.Option("--note", help="Why; kept in the history.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@knowledge_app.command("list")
def list_(
    file: File,
    arm: Arm = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only exemplar, insight or reflection.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only what waits for a person.")] = False,
    as_json: Json = False,
) -> None:
    """List the entries: their count, worth where measured, the episodes they came from, and who touched them last.

    Example: tutelage knowledge list runs/helpdesk --arm expel
    """
    from tutelage.commands.knowledge_view import list_entries

    list_entries(file, arm, kind=kind, held=held, as_json=as_json)


@knowledge_app.command()
def show(file: File, id: Id, arm: Arm = None) -> None:
    """Show one entry whole, with what happened to it.

    Example: tutelage knowledge show runs/helpdesk/agents/expel.json 3fa9
    """
    from tutelage.commands.knowledge_view import show_entry

    show_entry(file, arm, id)


@knowledge_app.command()
def add(
    file: File,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The rule; left out, $EDITOR opens.")] = None,
    arm: Arm = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How much it counts.")] = 2,
    by: By = None,
    note: Note = "",
) -> None:
    """Add a rule (an insight), shown with every task. Exemplars and reflections come in by `import`.

    Example: tutelage knowledge add runs/helpdesk/agents/expel.json "Ask for the order number first."
    """
    from tutelage.commands.knowledge import add_insight

    add_insight(file, arm, text, count=count, by=by, note=note)


@knowledge_app.command()
def edit(
    file: File,
    id: Id,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The new words; left out, $EDITOR opens.")] = None,
    arm: Arm = None,
    by: By = None,
    note: Note = "",
) -> None:
    """Change an entry's words. For an exemplar TEXT is its last answer; the editor shows its messages as JSON.

    Example: tutelage knowledge edit runs/helpdesk/agents/expel.json 3fa9 "Ask for the order number and the name."
    """
    from tutelage.commands.knowledge import edit_entry

    edit_entry(file, arm, id, text, by=by, note=note)


@knowledge_app.command()
def promote(
    file: File,
    id: Id,
    arm: Arm = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="By how much.")] = 1,
    by: By = None,
    note: Note = "",
) -> None:
    """Let an insight count more: it stands higher, and is dropped later.

    Example: tutelage knowledge promote runs/helpdesk/agents/expel.json 3fa9 --steps 3
    """
    from tutelage.commands.knowledge import change_entry

    change_entry(file, arm, id, "promote", by=by, note=note, steps=steps)


@knowledge_app.command()
def demote(
    file: File,
    id: Id,
    arm: Arm = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="By how much.")] = 1,
    by: By = None,
    note: Note = "",
) -> None:
    """Let an insight count less, but at least 1.

    Example: tutelage knowledge demote runs/helpdesk/agents/expel.json 3fa9
    """
    from tutelage.commands.knowledge import change_entry

    change_entry(file, arm, id, "demote", by=by, note=note, steps=steps)


@knowledge_app.command()
def pin(file: File, id: Id, arm: Arm = None, by: By = None, note: Note = "") -> None:
    """Keep an entry as it is: nothing but a person changes or removes it, and no budget drops it.

    Example: tutelage knowledge pin runs/helpdesk/agents/expel.json 3fa9
    """
    from tutelage.commands.knowledge import change_entry

    change_entry(file, arm, id, "pin", by=by, note=note)


@knowledge_app.command()
def unpin(file: File, id: Id, arm: Arm = None, by: By = None, note: Note = "") -> None:
    """Take a pin away. What a person added or edited stays protected from learners.

    Example: tutelage knowledge unpin runs/helpdesk/agents/expel.json 3fa9
    """
    from tutelage.commands.knowledge import change_entry

    change_entry(file, arm, id, "unpin", by=by, note=note)


@knowledge_app.command()
def remove(
    file: File,
    id: Id,
    arm: Arm = None,
    held: Annotated[bool, typer.Option("--held", help="Throw away an entry that is held.")] = False,
    by: By = None,
    note: Note = "",
) -> None:
    """Take an entry out. No learner brings its text back; `undo` does.

    Example: tutelage knowledge remove runs/helpdesk/agents/expel.json 3fa9 --note "only true in May"
    """
    from tutelage.commands.knowledge import change_entry, settle_held

    if held:
        settle_held(file, arm, id, keep=False, by=by, note=note)
    else:
        change_entry(file, arm, id, "remove", by=by, note=note)


@knowledge_app.command()
def release(file: File, id: Id, arm: Arm = None, by: By = None, note: Note = "") -> None:
    """Let an entry that was held be shown to the agent. Read it first: `list --held` says why it was held.

    Example: tutelage knowledge release runs/helpdesk/agents/expel.json 3fa9
    """
    from tutelage.commands.knowledge import settle_held

    settle_held(file, arm, id, keep=True, by=by, note=note)


@knowledge_app.command()
def history(
    file: File,
    arm: Arm = None,
    entry: Annotated[str | None, typer.Option("--entry", metavar="ID", help="Only this entry's changes.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Only the last N.")] = 50,
    as_json: Json = False,
) -> None:
    """Print who did what to which entry, when, and why. FILE@n is what the first n changes made.

    Example: tutelage knowledge history runs/helpdesk/agents/expel.json --entry 3fa9
    """
    from tutelage.commands.knowledge_view import print_history

    print_history(file, arm, entry, limit=limit, as_json=as_json)


@knowledge_app.command()
def undo(
    file: File,
    arm: Arm = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="How many changes.")] = 1,
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=0, help="Go to snapshot N instead, back or forward.")] = None,
    by: By = None,
) -> None:
    """Take back the last changes. The history keeps them, so `--to` also goes forward again.

    Example: tutelage knowledge undo runs/helpdesk/agents/expel.json --steps 2
    """
    from tutelage.commands.knowledge import undo_changes

    undo_changes(file, arm, steps=steps, to=to, by=by)


@knowledge_app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="FILE or FILE@n.")],
    b: Annotated[str, typer.Argument(metavar="B", help="FILE or FILE@n.")],
    arm: Arm = None,
    as_json: Json = False,
) -> None:
    """Print what changed from one snapshot to another: of one file or of two.

    Example: tutelage knowledge diff runs/helpdesk/agents/expel.json@10 runs/helpdesk/agents/expel.json
    """
    from tutelage.commands.knowledge_view import print_diff

    print_diff(a, b, arm, as_json=as_json)


@knowledge_app.command("export")
def export_(
    file: File,
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="OUT.jsonl, or OUT.md for insights alone (default: printed).")] = None,
    arm: Arm = None,
    format: Annotated[str | None, typer.Option("--format", help="jsonl or md (default: by OUT's name).")] = None,
) -> None:
    """Write all entries as JSON Lines, or the insights as a Markdown list that people can edit.

    Example: tutelage knowledge export runs/helpdesk/agents/expel.json rules.md
    """
    from tutelage.commands.knowledge import export_entries

    export_entries(file, arm, out, format)


@knowledge_app.command("import")
def import_(
    file: File,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .jsonl or .md file as `export` writes it.")],
    arm: Arm = None,
    by: By = None,
    note: Note = "",
) -> None:
    """Take entries in: new ones are added, changed ones edited, all screened, and held where the screen finds fault. None is removed.

    Example: tutelage knowledge import runs/helpdesk/agents/expel.json rules.md
    """
    from tutelage.commands.knowledge import import_entries

    import_entries(file, arm, source, by=by, note=note)


@knowledge_app.command()
def worth(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study whose run learned it.")],
    arm: Annotated[str, typer.Option("--arm", help="Which arm's knowledge.")],
    draws: Annotated[int, typer.Option("--draws", min=2, help="Runs of each training task, each with a random half of the entries.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", help="The folder of the run (default: runs/NAME).")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the worth into the arm's file, where `list` and learners see it.")] = False,
) -> None:
    """Measure what each entry is worth, on training tasks, by leaving random halves out; says first how many episodes that takes.

    Example: tutelage knowledge worth examples/helpdesk/study.yaml --arm exemplars-fixed --draws 8
    """
    from tutelage.commands.worth import print_worth
    from tutelage.progress import Bars
    from tutelage.study.config import load_study

    print_worth(load_study(study, out=out, progress=Bars()), arm, draws=draws, apply=apply)
