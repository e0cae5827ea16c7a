"""Files of the console: under a policy that lets in nothing from elsewhere, and with nothing in them that it would refuse."""

import re

from test_topics_over_http import opened

from trio_eventlog.http.console_files import console_files

VIRTUAL_TIME = True


async def test_the_page_and_its_files() -> None:
    """Each that another one names is there; a browser asks for it again only when it has changed."""
    async with opened() as (_, client):
        assert (await client.ask("GET", "/"))[0] == 200
        assert client.headers[b"content-type"] == b"text/html; charset=utf-8"
        assert b"default-src 'none'" in client.headers[b"content-security-policy"]
        named = set(re.findall(r"/console/([\w.]+)", "".join(data.decode() for data in console_files().values())))
        assert named >= {"app.js", "style.css", "uplot.js", "icon.svg"}
        for name in sorted(named):
            status, body = await client.ask("GET", f"/console/{name}")
            assert (status, body) == (200, console_files()[name])
            tag = client.headers[b"etag"].decode()
            assert (await client.ask("GET", f"/console/{name}", headers=(("if-none-match", tag),)))[0] == 304
        for name in ("none.js", "..%2f__init__.py", "uplot.LICENSE.txt", "%2e%2e"):
            assert (await client.ask("GET", f"/console/{name}"))[0] == 404


def test_nothing_is_loaded_from_elsewhere_or_made_of_text() -> None:
    """No address of another host, no code or style within the page, and no markup made of what a record may contain."""
    for name, data in console_files().items():
        if name.startswith("uplot"):
            continue
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bstyle=|\son\w+=", text), name
