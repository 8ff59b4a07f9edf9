"""`python -m keystile_auth` is the `keystile` command."""

from keystile_auth.cli import main

if __name__ == "__main__":
    main()
