"""Bounds on the numbers that become durable, or that a node acts on for good: one declaration each.

A number beyond its bound is refused where it comes in, before anything is adopted or written. None of them can be reached by
what a cluster does: whoever sends more is broken, or lies. docs/reference/bounds.md has the table, with the bounds that are
declared beside what they belong to.
"""

TERM_MAX = (1 << 48) - 1
"""Of a message, an entry and a hard state. At ten elections a second it lasts for 890,000 years; `term + 1` always has room."""

TERM_JUMP_MAX = 1 << 32
"""How far beyond a replica's own term that of a message may be. A node that was away for 13 years of ten elections a second finds
back; a single message cannot use up the terms there are."""

TERM_BY_ELECTIONS_MAX = 1 << 40
"""Beyond this a term was not reached by elections: `trio-eventlog log repair` sets it back."""

TERM_REPAIRED = 1 << 31
"""What a term is set back to. The same on every node, above every term that elections have reached, and within
`TERM_JUMP_MAX` of those of nodes that need no repair."""

INDEX_MAX = (1 << 48) - 1
"""Of an entry: a million a second for 8 years."""

OFFSET_MAX = (1 << 62) - 1
"""Of a record. The end offset of a log is at most this."""

SEQUENCE_END_MAX = 1 << 64
"""One past the last sequence number of a producer's batch."""

PRODUCERS_MAX = 10_000_000
"""Most producers that a partition can be set to remember, and most in its snapshot."""

WINDOW_BATCHES_MAX = 1000
"""Most batches of one producer that a partition can be set to remember, and most in its snapshot."""
