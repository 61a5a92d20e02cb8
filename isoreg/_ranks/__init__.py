"""Ranks of a process group: their rows exchanged, and each rank's share of the penalty."""
