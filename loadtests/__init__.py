"""The load generator: Locust users that drive a live server over HTTP, and the figures, verdict and report of the run.

It speaks the HTTP contract and imports no other room, so it can be installed alone (requirements/loadtests.txt) on the
machine that makes the load. It starts no server and changes nothing on the one it drives.
"""
