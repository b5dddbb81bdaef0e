"""A soak: a real server, thousands of peers for minutes, good, slow and hostile ones, and rules for what it must stand.

`python -m tests.soak` starts `rawws serve` on loopback, plays every peer in one process and one thread, watches the
server's memory and descriptors, ends it with SIGTERM, and says which rule was broken, if any.
"""
