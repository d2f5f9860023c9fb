"""`python -m steadylens` is the command `steadylens`."""

from steadylens.cli import main

main()
