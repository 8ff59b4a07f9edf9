"""`python -m bench.pinned MODULE ARGUMENT …`: run a module on the servers' core, or the one that BENCH_CORE names."""

import os
import runpy
import sys

from bench.rounds import SERVER_CORE, pin

if __name__ == "__main__":
    pin(int(os.environ.get("BENCH_CORE", SERVER_CORE)))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
