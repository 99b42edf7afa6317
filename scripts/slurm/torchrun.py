"""torchrun whose exit status says that the run was stopped, not broken: 85, which means start it again.

In: the words of torchrun. It passes SIGUSR1 on to its processes as it does SIGTERM, and gives them
`SLM_SHUTDOWN_SECONDS` (100) to save instead of 30. torchrun itself ends with 1 whatever its processes ended with; and
when the first of several that agreed to stop has left, it sends SIGTERM to those a moment behind.
Each start of the processes meets at a store of its own: torchrun's, which it would lend them, outlives restarts,
and machines that notice a lost one at different times would not agree on the number of the restart.
"""

from __future__ import annotations

import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

STOPPED, INTERRUPTED = 85, 130


def main(arguments: list[str]) -> int:
    """Launch, wait, and return the status for the scheduler."""
    waiting = ["--shutdown-timeout", os.environ.get("SLM_SHUTDOWN_SECONDS", "100")]
    handled = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    try:
        run(get_args_parser().parse_args([*handled, *waiting, *arguments]))
    except SignalException as stopped:
        return INTERRUPTED if stopped.sigval == signal.SIGINT else STOPPED
    except ChildFailedError as failed:
        statuses = {failure.exitcode for failure in failed.failures.values()}
        print(f"torchrun: processes ended with {sorted(statuses)}", file=sys.stderr)
        return STOPPED if STOPPED in statuses and statuses <= {STOPPED, -signal.SIGTERM} else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
