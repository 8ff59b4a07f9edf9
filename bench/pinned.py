"""`python -m bench.pinned MODULE ARGUMENT …`: run a module on the servers' core."""

import runpy
import sys

from bench.rounds import SERVER_CORE, pin

if __name__ == "__main__":
    pin(SERVER_CORE)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
