"""`python -m keystile_common.doctor URL`: for images that have no `keystile` command."""

import sys

from keystile_common.doctor.command import main

sys.exit(main(sys.argv[1:], "python -m keystile_common.doctor"))
