"""`python -m groundwire` is the `groundwire` command."""

from groundwire.cli import main

main()
