"""`tutelage plan`: its options. It imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file. `tutelage schema` describes its keys.")],
    arm: Annotated[str | None, typer.Option("--arm", metavar="NAME", help="Only this arm.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as learners.0.sft.gradient_checkpointing=true")
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="GB", min=0.001, help="Plan for so much memory in place of what this machine has.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: all parts and all sets of levers.")] = False,
) -> None:
    """Forecast how much memory each training of a study needs, and which levers would make it fit, before anything is run.

    For each arm that trains: the peak by part (weights, gradients, optimiser state, activations, the loss), what each set of levers would
    make of it with the time that it costs, and the cheapest set that fits, as lines to paste below the learner in the study file. Sets
    that learn something else are recommended only where no other fits; they are marked.

    Reads the model's description only: no weights are loaded, so that it works for models that are too large for this machine. Where rows
    are not there yet (episodes still to be run), the longest that `max_length` allows are taken.

    Example: tutelage plan study.yaml --memory 4
    """
    from tutelage.commands.plan import print_plans

    print_plans(study, arm=arm, changes=set_ or [], memory=memory, as_json=as_json)
