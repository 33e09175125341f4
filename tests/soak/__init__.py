"""Torture: processes put and take jobs while everything around them fails, and then every job is accounted for.

    ledger.py    what each process writes down, before and after each operation, and how that is read
    actors.py    the processes: producers, consumers of each mode, a keeper, a prober
    stage.py     where they play: a server, a network link that can be cut, a disk that can be filled
    nemesis.py   what goes wrong, and when: a schedule that a seed decides
    accounts.py  the rules by which the ledgers and the database are compared
    plants.py    mistakes to plant, each with a schedule that brings it out
    run.py       one run from its beginning to its table of figures

`make soak seed=1 minutes=30 pg=18` runs it.
"""
