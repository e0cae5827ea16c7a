"""The console in a real browser, on three real nodes: what it shows, what one does in it, and that it breaks no rule of its own."""

import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import ROOT, Daemon, DaemonCluster, wait_until

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


AXE = next((path for path in (Path(os.environ.get("AXE", "")), ROOT / "node_modules/axe-core/axe.min.js") if path.is_file()), None)


def violations(page: Any) -> list[str]:
    """What axe says of the page; nothing where it is missing (`npm install --no-save axe-core`)."""
    if AXE is None:
        return []
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_events_and_logs(make_daemon: Callable[..., Daemon], browser: Any, scheme: str) -> None:
    """Found, opened, appended, refused, followed; nothing breaks the policy, scrolls sideways, or keeps anybody out."""
    address = make_daemon("n1", "--listen", "127.0.0.1:0", "--data-dir", "data").start().address
    wait_until(lambda: is_ready(address), "ready")
    for number in range(3):
        post(address, "/events", {"aggregate_id": f"user-{number}", "type": "UserCreated", "payload": {"name": "<b>Jane</b>"}})
    levels = ("INFO", "WARN", "ERROR")
    post(address, "/v1/logs", [{"service": f"s{n % 2}", "level": levels[n % 3], "message": f"<i>line {n}</i>"} for n in range(30)])
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    expect = playwright.expect

    # The first page is answered when it was left already, and must not come back.
    held: list[Any] = []
    page.route("**/members", lambda route: held.append(route))
    with page.expect_request("**/members"):
        page.goto(f"http://{address}/")
    page.get_by_role("link", name="Events").click()
    events = page.get_by_role("region", name="Events")
    expect(events).to_contain_text("<b>Jane</b>", timeout=20_000)
    for route in held:
        with page.expect_response("**/members"):
            route.continue_()
    page.unroute("**/members")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    expect(events).to_be_visible()
    page.get_by_role("button", name="Follow live").click()
    post(address, "/events", {"aggregate_id": "user-9", "type": "UserLeft", "payload": None})
    expect(events).to_contain_text("UserLeft", timeout=20_000)
    page.get_by_role("link", name="user-1").click()
    versions = page.get_by_role("region", name="Versions")
    expect(versions).to_contain_text("UserCreated", timeout=20_000)
    page.get_by_label("Type").fill("UserRenamed")
    page.get_by_role("button", name="Append").click()
    expect(versions).to_contain_text("UserRenamed", timeout=20_000)
    post(address, "/events", {"aggregate_id": "user-1", "type": "UserLeft", "payload": None})
    page.get_by_role("button", name="Append").click()
    expect(page.get_by_text("you expected version 2, and it is 3")).to_be_visible(timeout=20_000)
    assert len(faults) == 1, "the browser itself writes down that an answer was 409"
    faults.clear()

    page.goto(f"http://{address}/#/events/user-77")
    expect(page.get_by_label("Expected version")).to_have_value("0", timeout=20_000)
    page.get_by_label("Type").fill("UserCreated")
    page.get_by_role("button", name="Append").click()
    expect(versions).to_contain_text("UserCreated", timeout=20_000)
    faults.clear()  # That there was none was a 404.

    page.get_by_role("link", name="Logs").click()
    lines = page.get_by_role("region", name="Lines")
    expect(lines).to_contain_text("<i>line 29</i>", timeout=20_000)
    page.get_by_label("Service").select_option("s1")
    page.get_by_label("Level").select_option("ERROR")
    expect(lines.locator("tbody tr")).to_have_count(5, timeout=20_000)
    page.get_by_label("Message contains").fill("line 5<")
    page.get_by_role("button", name="Search").click()
    expect(lines.locator("tbody tr")).to_have_count(1, timeout=20_000)
    lines.locator("summary").click()
    expect(lines).to_contain_text("ingested_node_id", timeout=20_000)
    page.get_by_role("button", name="What happened within").click()
    expect(lines).to_contain_text("<i>line 4</i>", timeout=20_000)
    page.get_by_role("button", name="Follow live").click()
    post(address, "/v1/logs", [{"service": "s1", "level": "ERROR", "message": "line 5< followed"}])
    expect(lines).to_contain_text("followed", timeout=20_000)

    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for name, region in (("Topics", "Topics"), ("Events", "Events"), ("Logs", "Lines")):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("region", name=region)).to_be_visible(timeout=20_000)
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), name
            assert violations(page) == [], f"{name} at {width}"
    assert faults == []


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
