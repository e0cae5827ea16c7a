"""host:port, taken apart and put together."""

import pytest
import trio

from trio_eventlog.net.network import AddressError, join_address, split_address
from trio_eventlog.net.real_network import RealNetwork


@pytest.mark.parametrize(
    ("address", "parts"),
    [("localhost:8400", ("localhost", 8400)), ("10.0.0.1:0", ("10.0.0.1", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_there_and_back(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "write HOST:PORT"),
        ("8400", "write HOST:PORT"),
        (":8400", "write HOST:PORT"),
        ("host:", "write HOST:PORT"),
        ("host:http", "write HOST:PORT"),
        ("host:65536", "65536"),
        ("host:-1", "-1"),
        ("host:²", "²"),
        ("::1:8400", "brackets"),
    ],
)
def test_what_is_no_address_says_why(address: str, says: str) -> None:
    with pytest.raises(AddressError, match=says):
        split_address(address)


async def test_ipv6() -> None:
    try:
        bound = await RealNetwork().listen("[::1]:0")
    except OSError:
        pytest.skip("no IPv6 here")
    async with bound.listener:
        assert bound.address.startswith("[::1]:")
        async with await RealNetwork().open_stream(bound.address) as stream:
            assert isinstance(stream, trio.abc.HalfCloseableStream)


async def test_a_connection_that_is_refused_says_so() -> None:
    """And not only that every attempt failed."""
    with pytest.raises(ConnectionRefusedError, match=r"127\.0\.0\.1:1: Connection refused"):
        await RealNetwork().open_stream("127.0.0.1:1")
    with pytest.raises(OSError, match=r"Name or service|not known|No address"):
        await RealNetwork().open_stream("nobody.invalid:1")
