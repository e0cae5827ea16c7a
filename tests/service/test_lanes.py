"""Producer ids of a node's own."""

import random

from tests.node.rig import batch_of
from trio_eventlog.ids import GroupId
from trio_eventlog.service.lanes import Lanes

ONE, TWO = GroupId(1), GroupId(2)


def test_a_lane_has_one_batch_at_a_time_and_its_sequence_goes_on() -> None:
    """Two at once have two ids; one that was given back is used again, where it ended."""
    lanes = Lanes(random.Random(1), 10)
    first, second = lanes.take(ONE), lanes.take(ONE)
    assert first.producer_id != second.producer_id
    lanes.give_back(first, 3)
    again = lanes.take(ONE)
    assert (again.producer_id, again.next_sequence) == (first.producer_id, 3)
    stamped = again.stamp(batch_of(b"x"))
    assert (stamped.producer_id, stamped.producer_epoch, stamped.base_sequence) == (first.producer_id, 0, 3)


def test_partitions_have_lanes_of_their_own() -> None:
    """A sequence is one partition's."""
    lanes = Lanes(random.Random(1), 10)
    lane = lanes.take(ONE)
    lanes.give_back(lane, 1)
    assert lanes.take(TWO).next_sequence == 0
    assert lanes.take(ONE) is lane


def test_a_lane_in_doubt_is_never_used_again() -> None:
    """It is simply not given back: whether its batch is in the log, and so its next sequence, is not known."""
    lanes = Lanes(random.Random(1), 10)
    doubtful = lanes.take(ONE)
    assert all(lanes.take(ONE).producer_id != doubtful.producer_id for _ in range(100))


def test_a_lane_begun_anew_is_none_of_the_idle_ones() -> None:
    lanes = Lanes(random.Random(1), 10)
    lane = lanes.take(ONE)
    lanes.give_back(lane, 1)
    new = lanes.begin(ONE)
    assert new.producer_id != lane.producer_id
    assert new.next_sequence == 0


def test_so_many_are_kept_and_no_more() -> None:
    lanes = Lanes(random.Random(1), 2)
    taken = [lanes.take(ONE) for _ in range(3)]
    for lane in taken:
        lanes.give_back(lane, 1)
    kept = [lanes.take(ONE).producer_id for _ in range(3)]
    assert len(set(kept) & {lane.producer_id for lane in taken}) == 2


def test_those_of_a_deleted_partition_are_forgotten() -> None:
    lanes = Lanes(random.Random(1), 10)
    lane = lanes.take(ONE)
    lanes.give_back(lane, 1)
    lanes.forget(ONE)
    lanes.forget(TWO)
    assert lanes.take(ONE).producer_id != lane.producer_id
