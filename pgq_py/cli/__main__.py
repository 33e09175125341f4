"""`python -m pgq_py.cli` is the command `pgq-py`."""

from . import main

main(prog_name="pgq-py")
