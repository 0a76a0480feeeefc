"""How a training process ends."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

import torch.distributed
from accelerate import Accelerator


def leave(accelerator: Accelerator, status: int = 0) -> NoReturn:
    """Ends this process, all work done: trackers closed, the group of processes left, what was to run at exit run.

    One of a group does not go through Python's own shutdown. A thread of gloo may still have a tensor to free then,
    which aborts the process (https://github.com/pytorch/pytorch/issues/190489), and the launcher calls the run failed.
    Leaving the group does not end that thread as long as anything refers to the group, and DeepSpeed always does.

    Args:
        accelerator: Its trackers are closed.
        status: The process's exit status.
    """
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    accelerator.end_training()
    if not in_group:
        raise SystemExit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
