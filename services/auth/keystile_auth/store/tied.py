"""Become another program that ends with the process that started it: `python tied.py PARENT PROGRAM ARGUMENT…`.

Run as a program of its own on Linux, so that nothing of ours runs between a fork and an exec. The kernel sends the
signal when the thread that started this one ends, however that came; it stays set through the exec (prctl(2)).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, and be the program from then on."""
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    # It may have ended before the kernel was asked.
    if os.getppid() != int(parent):
        sys.exit("the process that started this is gone")
    os.execv(command[0], command)  # noqa: S606 (what the caller chose; there is no shell)


if __name__ == "__main__":
    main()
