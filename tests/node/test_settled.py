"""A number as it was some time ago."""

import trio

from trio_eventlog.node.settled import SettledCount

VIRTUAL_TIME = True


async def test_what_is_given_is_old_enough_and_not_much_older() -> None:
    """The number grows by one a second, with notes that are often, seldom, and missing for a long while."""
    settled = SettledCount(60.0)
    noted = 0
    for second in range(1000):
        if not 300 <= second < 700 and (second < 150 or second % 7 == 0):
            settled.note(second)
            noted = second
        value = settled.value()
        assert value == 0 or value <= second - 60
        if second >= 120 and not 300 <= second < 780:
            assert value >= second - 60 - 12, (second, value)
        assert len(settled._notes) <= SettledCount.NOTES_MAX
        assert value <= noted
        await trio.sleep(1.0)


async def test_without_an_age_everything_is_settled() -> None:
    """0 switches the floor off."""
    settled = SettledCount(0.0)
    assert settled.value() == 0
    settled.note(5)
    assert settled.value() == 5
