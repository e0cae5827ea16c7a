"""The console in a real browser, on three real nodes: what it shows, what one does in it, and that it breaks no rule of its own."""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemons import DaemonCluster, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium"),
]


def post(address: str, path: str, value: object) -> None:
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(value).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


def test_the_console(make_cluster: Callable[..., DaemonCluster], browser: Any) -> None:
    """Well, then a node is killed; records are read, produced and followed; nothing breaks the policy or scrolls sideways."""
    cluster = make_cluster().start()
    address = cluster.addresses[0]
    wait_until(lambda: is_ready(address), "ready")
    post(address, "/topics", {"name": "orders", "partitions": 1})
    post(address, "/topics/orders/records", {"records": [{"value": f"<b>{number}</b>", "key": "k"} for number in range(120)]})
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))

    page.goto(f"http://{address}/")
    playwright.expect(page.get_by_role("status")).to_contain_text("The cluster is well", timeout=20_000)
    playwright.expect(page.locator("tbody tr")).to_have_count(3)

    page.get_by_role("link", name="Topics").click()
    page.get_by_role("link", name="orders").click()
    records = page.get_by_role("region", name="Records")
    # What a record contains is text, and never markup.
    playwright.expect(records).to_contain_text("<b>119</b>", timeout=20_000)
    page.get_by_role("button", name="Older").click()
    playwright.expect(records).to_contain_text("<b>69</b>", timeout=20_000)
    page.reload()
    playwright.expect(records).to_contain_text("<b>119</b>", timeout=20_000)
    page.get_by_label("Value", exact=True).fill("by hand")
    page.get_by_role("button", name="Produce").click()
    playwright.expect(records).to_contain_text("by hand", timeout=20_000)
    # A record that comes before the page follows is shown too.
    post(address, "/topics/orders/records", {"records": [{"value": "between"}], "partition": 0})
    page.get_by_role("button", name="Follow live").click()
    playwright.expect(records).to_contain_text("between", timeout=20_000)
    post(address, "/topics/orders/records", {"records": [{"value": "followed"}], "partition": 0})
    playwright.expect(records).to_contain_text("followed", timeout=20_000)
    page.set_viewport_size({"width": 390, "height": 800})
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert faults == []

    cluster.nodes[2].kill()
    page.goto(f"http://{address}/#/")
    playwright.expect(page.get_by_role("status")).to_contain_text("n2 does not answer", timeout=60_000)
    cluster.nodes[0].kill()
    playwright.expect(page.get_by_role("alert")).to_contain_text("cannot be reached", timeout=20_000)
