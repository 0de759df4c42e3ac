"""Starting this program as several processes on this machine, through torch's elastic agent."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError, ProcessLostError

SAID = "PRISMREC_SAID"
"""Environment variable: where the first process notes the error that it has told of."""

STARTER = "PRISMREC_STARTER"
"""Environment variable: number of the process that started the others."""

_SHOWN = 4000
_WATCH_SECONDS = 0.5


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``python -m prismrec`` with arguments in several processes that train together.

    The first one speaks; what the others write is shown where one of them is the first to fail. When one
    ends, so do all.

    Parameters
    ----------
    arguments
        Of the command line.
    processes
        How many.

    Returns
    -------
    int
        The exit code: 0, that of the process that failed first, or 128 and the number of the signal that
        ended them.

    Raises
    ------
    InputError
        If there is not more than one process to be started.
    ProcessLostError
        If a process was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if processes < 2:
        raise InputError(f"{processes} processes cannot train together.", "Give --processes 2 or more.")
    # The agent reports each child that fails at length; `_failed` says it in a line.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # As many threads as there are cores in each process would make all of them wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="prismrec-") as logs:
        told = {SAID: f"{logs}/said", STARTER: str(os.getpid())}
        os.environ.update(told)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="prismrec",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs, redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "prismrec", *arguments)
        except ChildFailedError as error:
            return _failed(error.failures, Path(logs), processes)
        except SignalException as error:
            # As a shell has it; what there is to say the first process has said.
            return 128 + int(error.sigval)
        finally:
            for name in told:
                del os.environ[name]
    return 0


def end_with_starter() -> None:
    """End this process when the one that started it is gone: two runs must not write into one folder.

    Only where `launch` started it; elsewhere somebody else looks after it.
    """
    starter = os.environ.get(STARTER)
    if starter is None:
        return

    def watch() -> None:
        # Once it is gone, somebody else is the parent.
        while str(os.getppid()) == starter:
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="prismrec-starter", daemon=True).start()


def _failed(failures: dict[int, Any], logs: Path, processes: int) -> int:
    """Tell of the process that failed first; of several at once, of one that was killed."""
    codes = {rank: failure.exitcode for rank, failure in sorted(failures.items())}
    # By SIGTERM the agent itself ends those that are left.
    killed = [rank for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM]
    if killed:
        name = signal.Signals(-codes[killed[0]]).name
        raise ProcessLostError(
            f"Process {killed[0]} of {processes} was ended by {name}; the others were stopped.",
            "The system kills what takes too much memory. The same command goes on from the last checkpoint.",
        )
    # Whoever ended by itself, before those that the agent ended.
    rank = min(failures, key=lambda rank: (codes[rank] < 0, failures[rank].timestamp, rank))
    said = (logs / "said").read_text(encoding="utf-8") if (logs / "said").exists() else None
    for file in sorted(logs.rglob(f"{rank}/stderr.log")) if rank else []:
        text = file.read_text(errors="replace")[-_SHOWN:]
        if said is None or said not in text:
            sys.stderr.write(f"Process {rank}: {text}")
    return codes[rank] if codes[rank] > 0 else 1
