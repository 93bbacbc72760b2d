"""`tutelage inbox`: its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

inbox_app = typer.Typer(
    no_args_is_help=True,
    help="Questions that agents put to people: read them, answer them, one after the other.\n\n"
    "RUN is a run's folder, the file of a store, or a database's URL; left out, all runs in ./runs are looked through.",
)

RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's folder, a store's file, or a database's URL.")]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Where the question is (default: all runs in ./runs).")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The question's id, or enough of its beginning.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who answers (default: the system's user).")]


@inbox_app.command("list")
def list_(
    run: RunArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="Also what was answered, declined, or done without.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what waits: since when, for how long still, at what price, and who has it in hand.

    Example: tutelage inbox list runs/helpdesk
    """
    from tutelage.commands.inbox import list_questions

    list_questions(run, all_=all_, as_json=as_json)


@inbox_app.command()
def show(id: Id, run: RunOption = None) -> None:
    """Show one question whole: the words, what the agent shows of its work, the terms, and the answer if there is one.

    Example: tutelage inbox show 3fa9
    """
    from tutelage.commands.inbox import show_question

    show_question(id, run)


@inbox_app.command()
def answer(
    id: Id,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer; left out, standard input or $EDITOR.")] = None,
    run: RunOption = None,
    by: By = None,
    note: Annotated[str, typer.Option("--note", help="Words beside it, such as the reason for a grade.")] = "",
) -> None:
    """Answer a question. An agent that waits for it goes on with the answer within a second or so.

    Example: tutelage inbox answer 3fa9 "The X200 has a battery that can be changed."
    """
    from tutelage.commands.inbox import answer_question

    answer_question(id, text, run, by=by, note=note)


@inbox_app.command()
def decline(
    id: Id,
    run: RunOption = None,
    by: By = None,
    note: Annotated[str, typer.Option("--note", help="Why; kept with the question.")] = "",
) -> None:
    """Say that nobody will answer: the agent goes on without, or asks its other expert.

    Example: tutelage inbox decline 3fa9 --note "ask the supplier"
    """
    from tutelage.commands.inbox import decline_question

    decline_question(id, run, by=by, note=note)


@inbox_app.command()
def watch(
    run: RunArgument = None,
    by: By = None,
    minutes: Annotated[float, typer.Option("--minutes", help="If this terminal dies, others get its question after so long.")] = 10.0,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing waits.")] = False,
) -> None:
    """Answer one question after the other as they come. Nobody else gets the one that is shown. Ctrl-C gives it back and ends.

    Example: tutelage inbox watch runs/helpdesk --by anna
    """
    from tutelage.commands.inbox_watch import watch_inbox

    watch_inbox(run, by=by, minutes=minutes, until_empty=until_empty)
