"""`python -m bench.peers.execute FOLDER PROGRAM ARGUMENT …`: become a program in a folder, on the servers' core."""

import os
import sys

from bench.rounds import SERVER_CORE, pin

if __name__ == "__main__":
    pin(SERVER_CORE)
    os.chdir(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])
