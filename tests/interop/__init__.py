"""rawws and everybody else's clients and servers: `make interop`.

`matrix.py` declares who is tried, with what, and what a peer cannot do; `programs.py` starts the peers, each a
small program in `peers/`; `test_interop.py` lets them play and holds them to the matrix; `table.py` draws it.
One client plays one scenario against one server: `peers/scenario.py` for the clients in Python, rawws's own among
them, and `peers/scenario.js` for those in JavaScript.
"""
