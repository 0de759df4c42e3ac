"""Two processes that align together, as `torchrun` starts them; `test_steps` starts this.

Not a test itself. It reads one JSON object: ``supervised`` (the run), ``out``, ``settings``, ``most`` and
``port``. It does nothing but import before it forks: threads of libraries do not survive a fork.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import torch.distributed
import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
import transformers.models.qwen2_vl.image_processing_pil_qwen2_vl  # noqa: F401

from prismrec.sequential import tune  # noqa: F401
from prismrec.sequential.runs import align_config
from prismrec.sequential.steps import align

PROCESSES = 2


def work(order: dict[str, Any], rank: int) -> None:
    """Align, then wait for the others."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ.update({name: str(value) for name, value in here.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(order["port"]))
    config = align_config("hanorec", "published-align", order["settings"])
    align(Path(order["supervised"]), Path(order["out"]), config, most=order["most"], restart=True)
    assert torch.distributed.get_world_size() == PROCESSES
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> int:
    """Fork; if one fails, end the others, which would wait for it. Return how many failed."""
    order = json.loads(sys.argv[1])
    children = set()
    for rank in range(PROCESSES):
        child = os.fork()
        if child == 0:
            try:
                work(order, rank)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        children.add(child)
    failed = 0
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not failed:
            for other in children:
                os.kill(other, signal.SIGKILL)
        failed += status != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
