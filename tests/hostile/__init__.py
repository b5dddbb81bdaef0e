"""Each limit reached from the wire: `rawws serve` in a process of its own, whose memory is read, and hostile peers.

A third process, `pulse.py`, is the healthy client that must see nothing of it. What the server may keep is computed
from `Limits` in each test and stated there as a sentence; `SLACK` is what an interpreter at work takes besides.
"""
