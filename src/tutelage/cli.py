"""The command line. Every command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.commands.adapt_cli import adapt
from tutelage.commands.adapter_cli import adapter_app
from tutelage.commands.data_cli import data_app
from tutelage.commands.environment_cli import environment_app
from tutelage.commands.inbox_cli import inbox_app
from tutelage.commands.judge_cli import judge_app
from tutelage.commands.knowledge_cli import knowledge_app
from tutelage.commands.label_cli import label
from tutelage.commands.plan_cli import plan
from tutelage.errors import BudgetExceeded, InputError, TutelageError

if TYPE_CHECKING:
    from tutelage.study.run import Study

app = typer.Typer(
    name="tutelage",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Make an LLM agent better at its job, by several ways of learning, and prove it on tasks that no learner has seen.\n\n"
    "Begin with: tutelage run examples/helpdesk/study.yaml",
)

app.add_typer(knowledge_app, name="knowledge")
app.add_typer(environment_app, name="env")
app.add_typer(data_app, name="data")
app.add_typer(adapter_app, name="adapter")
app.add_typer(inbox_app, name="inbox")
app.add_typer(judge_app, name="judge")

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file. `tutelage schema` describes its keys.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/helpdesk.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as agent.model=gguf:other.gguf")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N tasks of either split.")]


@app.command()
def run(
    study: StudyPath,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the report and the experience (default: runs/NAME).")] = None,
    limit: Limit = None,
    set_: Changes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only forecast calls, tokens, time, money and what the test can detect.")
    ] = False,
) -> None:
    """Run a study and write its report. Interrupted? Run the same command again: it continues.

    Exit codes: 0 done, 2 wrong input or unreachable model, 3 budget spent, 130 interrupted.
    """
    from tutelage.progress import Bars
    from tutelage.study.config import load_study

    loaded = load_study(study, out=out, limit=limit, changes=set_ or [], progress=Bars())
    if dry_run:
        _forecast(loaded)
        return
    from tutelage.study.render_terminal import print_report

    report = loaded.run()
    print_report(report)
    folder = Path(str(loaded.out))
    typer.echo(f"\nReport: {folder / 'report.html'} (also report.md, report.json)\nFailures to read: tutelage episodes {folder} --failed")


def _forecast(study: Study) -> None:
    from tutelage.study.forecast import forecast, print_forecast

    print_forecast(forecast(study))


@app.command(name="eval")
def evaluate(
    agent: Annotated[Path, typer.Argument(metavar="AGENT.yaml", help="An agent file: the keys of a study's `agent`.")],
    tasks: Annotated[Path, typer.Option("--tasks", help="The task file.")],
    grader: Annotated[str, typer.Option("--grader", help="A grader's name, or file.py:function.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to keep the episodes in (default: not kept).")] = None,
    limit: Limit = None,
) -> None:
    """Score one agent on one task file: the mean, its 95% interval, and what it cost."""
    from tutelage.commands.evaluate import evaluate_files, print_evaluation

    print_evaluation(evaluate_files(agent, tasks, grader, out=out, limit=limit))


@app.command()
def show(run: RunPath) -> None:
    """Print the report of a run."""
    from tutelage.study.render_terminal import print_report
    from tutelage.study.report import read_report

    print_report(read_report(run))


@app.command()
def episodes(
    run: RunPath,
    failed: Annotated[bool, typer.Option("--failed", help="Only episodes that were graded below 1.")] = False,
    arm: Annotated[str | None, typer.Option("--arm", help="Only this arm.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: episode and grade.")] = False,
) -> None:
    """Read the episodes of a run: what was asked, what the agent did, and how it was graded."""
    from tutelage.commands.episodes import print_episodes

    print_episodes(run, failed=failed, arm=arm, limit=limit, as_json=as_json)


@app.command()
def play(
    study: StudyPath,
    task: Annotated[int, typer.Option("--task", min=1, help="Which training task, from 1.")] = 1,
    set_: Changes = None,
) -> None:
    """Do a training task by hand, with the agent's own tools, and be graded as the agent is."""
    from tutelage.commands.play import play_task

    play_task(study, task, set_ or [])


@app.command()
def doctor() -> None:
    """Say what is installed, what this machine can do, and which models are found."""
    from tutelage.commands.doctor import print_diagnosis

    print_diagnosis()


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    from tutelage.study.sections import StudyFile

    typer.echo(json.dumps(StudyFile.model_json_schema(), indent=2))


app.command()(adapt)
app.command()(plan)
app.command()(label)


def main() -> None:
    """The entry point: errors raised on purpose become one clear message and an exit code."""
    try:
        app(standalone_mode=True)
    except BudgetExceeded as error:
        _fail(str(error), 3)
    except InputError as error:
        _fail(str(error), 2)
    except TutelageError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted. What had ended is stored: run the same command again to continue", 130)


def _fail(message: str, code: int) -> None:
    print(f"tutelage: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
