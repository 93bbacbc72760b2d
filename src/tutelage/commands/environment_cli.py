"""`tutelage env`: its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

environment_app = typer.Typer(
    no_args_is_help=True,
    help="List, check and play environments: the worlds in which agents work.\n\n"
    "NAME is a built-in environment, file.py:Class, or a study file whose environment is meant.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="shop, file.py:Class, or STUDY.yaml.")]
Options = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of its tasks or of itself, as domain=airline.")]
Tasks = Annotated[str | None, typer.Option("--tasks", help="A task file, or file.py:function called with (count, seed).")]
Seed = Annotated[int, typer.Option("--seed", help="Of the tasks, and of the random actions of a check.")]


@environment_app.command("list")
def list_() -> None:
    """List the built-in environments with the options of their tasks.

    Example: tutelage env list
    """
    from tutelage.commands.environments import print_environments

    print_environments()


@environment_app.command()
def check(
    name: Name,
    option: Options = None,
    tasks: Tasks = None,
    count: Annotated[int, typer.Option("--count", min=1, help="On how many tasks.")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Random actions on each task.")] = 20,
    seed: Seed = 0,
) -> None:
    """Run an environment through what a careful author would want to know; exit code 1 where something is wrong.

    Example: tutelage env check shop --count 3
    """
    from tutelage.commands.environments import check_named

    report = check_named(name, options=option or [], tasks=tasks, count=count, steps=steps, seed=seed)
    raise typer.Exit(0 if report.ok else 1)


@environment_app.command()
def play(name: Name, option: Options = None, tasks: Tasks = None, seed: Seed = 0) -> None:
    """Do the first task of a seed by hand, with the environment's own tools, and be graded by it.

    Example: tutelage env play shop --seed 3
    """
    from tutelage.commands.environments import play_named

    play_named(name, options=option or [], tasks=tasks, seed=seed)
