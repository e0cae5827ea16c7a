"""Variables without our prefix: what they stand for, and that ours come first."""

import pytest

from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_aliases import alias_notes
from trio_eventlog.settings import ClientSettings, NodeSettings, load_settings

LOCAL = {"NODE_ID": "event-store-0", "HTTP_PORT": "8080", "DATA_DIR": "./data/wal", "ETCD_ENDPOINTS": "localhost:2379"}
IN_KUBERNETES = {**LOCAL, "SERVICE_NAME": "event-store", "NAMESPACE": "events"}


def loaded(environment: dict[str, str], **file: object) -> NodeSettings:
    return load_settings(NodeSettings, environment=environment, file=file)


def test_on_a_machine_of_ones_own() -> None:
    settings = loaded(LOCAL)
    assert (settings.node_name, settings.listen, settings.data_dir) == ("event-store-0", "127.0.0.1:8080", "./data/wal")
    assert (settings.join, settings.bootstraps) == ((), NodeSettings().bootstraps)


def test_behind_a_service() -> None:
    settings = loaded(IN_KUBERNETES)
    assert settings.listen == "0.0.0.0:8080"
    assert settings.join == ("event-store.events.svc:8080",)
    assert settings.advertise == "event-store-0.event-store.events.svc:8080"
    assert settings.bootstraps == 3
    without = {name: value for name, value in IN_KUBERNETES.items() if name not in ("NAMESPACE", "HTTP_PORT")}
    assert loaded(without).join == ("event-store.default.svc:8400",)


@pytest.mark.parametrize("own", ["variable", "file"])
def test_ours_come_first(own: str) -> None:
    """Whatever it is read from; and who names nodes to join says how many there are."""
    ours = {"node_name": "mine", "listen": "127.0.0.1:9000", "data_dir": "/mine", "join": ["other:9000"], "advertise": "me:9000"}
    if own == "file":
        settings = loaded(IN_KUBERNETES, **ours)
    else:
        texts = {name: value if isinstance(value, str) else value[0] for name, value in ours.items()}
        settings = loaded(IN_KUBERNETES | {f"TRIO_EVENTLOG_{name.upper()}": value for name, value in texts.items()})
    assert (settings.node_name, settings.listen, settings.data_dir) == ("mine", "127.0.0.1:9000", "/mine")
    assert (settings.join, settings.advertise) == (("other:9000",), "me:9000")
    assert settings.bootstraps == NodeSettings(join=("other:9000",)).bootstraps


def test_empty_ones_stand_for_nothing() -> None:
    assert loaded(dict.fromkeys(IN_KUBERNETES, " ")) == NodeSettings()
    assert alias_notes(dict.fromkeys(IN_KUBERNETES, "")) == []


@pytest.mark.parametrize("port", ["http", "-1", "65536", "8080.0", "９"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(SettingsError, match="HTTP_PORT"):
        loaded({"HTTP_PORT": port})


def test_what_the_log_says() -> None:
    """Once each, in words."""
    assert alias_notes({"HOME": "/"}) == []
    used, ignored = alias_notes(LOCAL)
    assert used == "settings that nothing else says are taken from NODE_ID, HTTP_PORT, DATA_DIR"
    assert ignored.startswith("ETCD_ENDPOINTS is ignored")


def test_a_client_takes_none_of_them() -> None:
    assert load_settings(ClientSettings, environment=IN_KUBERNETES) == ClientSettings()
