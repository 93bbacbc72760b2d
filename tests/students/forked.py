"""Runs `tutelage` in children of one process that has everything imported already, and ends some of them at a given moment.

Reads a JSON object a line: {"folder": where to run, "command": words, "stop_at": number of an event or null, "how": "kill", "interrupt"
(Ctrl-C) or "raise"}.
Events are what a run leaves behind or changes: episodes stored, files put in their place, tensors written, weights updated. Writes, a line
for each, {"code": exit code, negative for a signal, "events": their names}. What a child says goes to FOLDER/said.txt.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


class Ended(BaseException):
    """Stands for whatever ends a program."""


class Events:
    """Counts, and ends the process at the one that is asked for."""

    def __init__(self, stop_at: int | None, how: str) -> None:
        self.stop_at, self.how = stop_at, how
        self.seen: list[str] = []

    def __call__(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) == self.stop_at:
            if self.how == "raise":
                raise Ended
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}[self.how])

    def before(self, holder: Any, name: str) -> None:
        """Each call of a function is an event."""
        function: Callable[..., Any] = getattr(holder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self(name)
            return function(*args, **kwargs)

        setattr(holder, name, counted)


def watch(events: Events) -> None:
    """Count what changes the world."""
    import safetensors.torch
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from tutelage.experience.store import Store
    from tutelage.training import keeper

    register_optimizer_step_post_hook(lambda *_: events("step"))
    for holder, name in [
        (Store, "add"),
        (pathlib.Path, "rename"),
        (os, "replace"),
        (torch, "save"),
        (keeper, "save_file"),
        (safetensors.torch, "save_file"),
    ]:
        events.before(holder, name)


def child(job: dict[str, Any]) -> None:
    """One run; never returns."""
    os.chdir(job["folder"])
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    events, code = Events(job.get("stop_at"), job.get("how", "kill")), 70
    try:
        watch(events)
        sys.argv = ["tutelage", *job["command"]]
        from tutelage import cli

        cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - whatever it was is in the output
        traceback.print_exc()
    finally:
        pathlib.Path("events").write_text(json.dumps(events.seen))
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Import, say so, then serve."""
    import peft  # noqa: F401
    import trl.trainer.dpo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    import tutelage.models.huggingface
    import tutelage.study.config
    import tutelage.training.dpo_trainer
    import tutelage.training.sft_trainer
    import tutelage.training.trainer  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(job)
        _, status = os.waitpid(pid, 0)
        counted = pathlib.Path(job["folder"], "events")
        seen = json.loads(counted.read_text()) if counted.exists() else []
        counted.unlink(missing_ok=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "events": seen}), flush=True)


if __name__ == "__main__":
    main()
