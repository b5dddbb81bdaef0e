"""The Autobahn conformance suite against rawws: `python -m tests.autobahn`.

Autobahn's `wstest` plays 517 cases as a client and judges how the server answers. Here a server is
started for each lane, the cases of each endpoint are dealt to several `wstest` processes (one is single
threaded), and their reports are read: a case passes when both its behavior and its closing are OK or
INFORMATIONAL, and a case that is not in a report has failed.

`suite.py` gets the suite into a Python 2.7 virtualenv, `plan.py` says which cases are played against
which endpoint by which process, `play.py` runs servers and clients and ends them, `report.py` reads and
judges. Nothing is written outside `build/autobahn/` of the checkout (RAWWS_AUTOBAHN_HOME names another
folder).
"""
