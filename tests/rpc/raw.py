"""An HTTP/2 peer that says exactly what a test wants, well-formed or not, and reads frames one by one."""

import struct

from trio_eventlog.rpc.headers import HeaderDecoder, encode_headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def frame(kind, flags=0, stream_id=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream_id) + payload


def settings(**values):
    codes = {"initial_window_size": 4, "max_frame_size": 5, "max_concurrent_streams": 3, "header_table_size": 1}
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", codes[name], value) for name, value in values.items()))


def message(data, flag=0):
    return struct.pack(">BI", flag, len(data)) + data


def request_headers(path, **changes):
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]


def block(headers):
    return encode_headers(headers)


class RawPeer:
    """One end of a connection, by hand."""

    def __init__(self, stream):
        self.stream = stream
        self.buffer = b""
        self.seen = []
        self.endings = {}
        self.decoder = HeaderDecoder(list_bytes_max=1 << 20)

    async def send(self, *frames):
        await self.stream.send_all(b"".join(frames))

    async def connect(self, *frames):
        """As a client: the preface, settings, and whatever else."""
        await self.send(PREFACE, *(frames or (SETTINGS_FRAME,)))

    async def request(self, stream_id, path, *messages, ends=True, **changes):
        await self.send(frame(HEADERS, END_HEADERS, stream_id, block(request_headers(path, **changes))))
        if messages or ends:
            await self.send(frame(DATA, END_STREAM if ends else 0, stream_id, b"".join(map(message, messages))))

    async def receive(self):
        """The next frame as (kind, flags, stream id, payload); None at the end of the connection."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self.buffer += data
        length = int.from_bytes(self.buffer[:3], "big")
        raw, self.buffer = self.buffer[: 9 + length], self.buffer[9 + length :]
        result = (raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9:])
        self.seen.append(result)
        return result

    async def wait(self, kind, stream_id=None, flags=0):
        """The payload of the next frame like this; others go by."""
        while True:
            got = await self.receive()
            assert got is not None, f"the connection ended before a frame of type {kind}"
            if got[0] == kind and stream_id in (None, got[2]) and got[1] & flags == flags:
                return got[3]

    async def wait_end(self):
        while await self.receive() is not None:
            pass

    async def headers(self, stream_id):
        """The next header list on a stream, as a dict."""
        payload = await self.wait(HEADERS, stream_id)
        return {name.decode(): value.decode() for name, value in self.decoder.decode(payload)[0]}

    async def status(self, stream_id):
        """Reads on to the end of a call: its trailers, or the code it was reset with. The ends of other calls are kept."""
        while stream_id not in self.endings:
            got = await self.receive()
            assert got is not None, "the connection ended before the call"
            kind, flags, number, payload = got
            if kind == RST_STREAM:
                self.endings.setdefault(number, {"reset": int.from_bytes(payload, "big")})
            elif kind == HEADERS:
                headers = {name.decode(): value.decode() for name, value in self.decoder.decode(payload)[0]}
                if flags & END_STREAM:
                    self.endings[number] = headers
        return self.endings.pop(stream_id)
