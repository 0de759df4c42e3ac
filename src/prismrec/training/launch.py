"""Starting this program as several processes on this machine, through torch's elastic agent."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError, ProcessLostError

SAID = "PRISMREC_SAID"
"""Environment variable: where the first process notes the error that it has told of."""

_SHOWN = 4000


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
        The exit code: 0, or that of the process that failed first.

    Raises
    ------
    InputError
        If there is not more than one process to be started.
    ProcessLostError
        If a process was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if processes < 2:
        raise InputError(f"{processes} processes cannot train together.", "Give --processes 2 or more.")
    # The agent reports each child that fails at length; `_failed` says it in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # As many threads as there are cores in each process would make all of them wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="prismrec-") as logs:
        os.environ[SAID] = f"{logs}/said"
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
        finally:
            del os.environ[SAID]
    return 0


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
