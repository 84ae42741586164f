"""Devices, hosts, signals, caches: the machine that a run has."""
