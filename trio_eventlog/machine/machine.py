"""What every replicated state machine offers: apply, snapshot, restore.

A machine is fed committed entries in the order of their indexes. A snapshot is a value: it shares nothing that changes with the
machine it was taken of. A machine that restores it equals that machine, and stays equal to it when both apply the same entries.
"""

from typing import Protocol, TypeVar

SnapshotT = TypeVar("SnapshotT")
CommandT_contra = TypeVar("CommandT_contra", contravariant=True)
OutcomeT_co = TypeVar("OutcomeT_co", covariant=True)


class Part(Protocol[SnapshotT]):
    """A part of a machine: it takes what its machine gives it, in a method of its own, and is saved and restored with it."""

    def snapshot(self) -> SnapshotT:
        """The whole state, as an immutable value."""
        ...

    def restore(self, snapshot: SnapshotT) -> None:
        """Take the state of `snapshot`, whatever was applied before."""
        ...


class Machine(Part[SnapshotT], Protocol[CommandT_contra, OutcomeT_co, SnapshotT]):
    """A group's state machine. Two machines of one kind are equal when their snapshots are."""

    @property
    def applied_index(self) -> int:
        """Index of the last applied entry; 0 before the first one. Part of the snapshot."""
        ...

    def apply(self, index: int, command: CommandT_contra) -> OutcomeT_co:
        """Apply the command of entry `index`, which is `applied_index + 1`. Returns what its proposer gets: a result or an error.

        Never raises for anything that a proposer can have put into an entry.
        """
        ...

    def skip(self, index: int) -> None:
        """Pass over entry `index`, which is `applied_index + 1` and has no command for this machine."""
        ...
