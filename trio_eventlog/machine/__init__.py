"""The replicated state machine: what every replica knows after the same entries.

Pure values and functions, fed one committed entry after the other in the order of their indexes. Two machines that have applied
the same index are equal, so nothing here may depend on a clock, on randomness, on the order of a set or on who is leader.
"""
