"""Lines as four services might write them: for load generators, demonstrations and tests."""

import random

SERVICES = {
    "focus_allocator": (
        "focus block of {n} minutes allocated", "focus block moved by {n} minutes", "no free slot within {n} days",
        "calendar of user {n} synchronised", "calendar of user {n} could not be read", "preference {n} of the user is ignored",
        "two blocks overlap by {n} minutes", "allocation took {n} ms", "{n} blocks allocated for the week",
        "block {n} cancelled by the user", "block {n} rescheduled", "user {n} has no working hours", "quota of {n} blocks reached",
        "plan {n} applied", "plan {n} rejected", "reminder {n} minutes before the block", "holiday {n} respected",
        "time zone of user {n} changed", "retry {n} of the calendar", "cache holds {n} calendars", "worker {n} started",
        "worker {n} idle", "backlog of {n} requests", "request {n} answered",
    ),
    "event_creator": (
        "event {n} created", "event {n} updated", "event {n} deleted", "event {n} has no title", "invitation {n} sent",
        "invitation {n} bounced", "{n} guests invited", "guest {n} accepted", "guest {n} declined", "room {n} booked",
        "room {n} is taken", "recurrence of {n} weeks expanded", "recurrence {n} has no end", "attachment of {n} bytes stored",
        "attachment of {n} bytes refused", "template {n} rendered", "webhook answered in {n} ms", "webhook {n} failed",
        "queue holds {n} events", "batch of {n} events committed", "version {n} expected", "conflict on event {n}",
        "import of {n} events finished", "export {n} requested",
    ),
    "auth_service": (
        "user {n} logged in", "user {n} logged out", "password of user {n} changed", "password of user {n} is wrong",
        "account {n} locked", "account {n} unlocked", "token {n} issued", "token {n} expired", "token {n} revoked",
        "signature of token {n} is invalid", "session {n} opened", "session {n} closed", "second factor of user {n} accepted",
        "second factor of user {n} refused", "{n} attempts from one address", "address {n} blocked", "role {n} granted",
        "role {n} withdrawn", "key {n} rotated", "login took {n} ms", "directory answered in {n} ms", "directory is away, try {n}",
        "consent {n} given", "invitation {n} redeemed",
    ),
    "notification_service": (
        "mail {n} sent", "mail {n} bounced", "push {n} delivered", "push {n} failed", "device {n} registered", "device {n} is gone",
        "digest of {n} messages sent", "template {n} is missing", "user {n} unsubscribed", "user {n} muted a channel",
        "channel {n} created", "rate limit of {n} a minute reached", "provider answered in {n} ms", "provider refused {n}",
        "switched to provider {n}", "{n} messages wait", "message {n} dropped", "message {n} deduplicated", "retry {n} scheduled",
        "webhook {n} registered", "batch of {n} sent", "locale {n} unknown", "preview {n} rendered", "feedback {n} received",
    ),
}  # fmt: skip
"""24 messages of each."""

LEVELS = {"DEBUG": 15, "INFO": 65, "WARN": 14, "ERROR": 6}
"""How often each is."""
LABELS = {"region": ("eu-west", "us-east", "ap-south"), "env": ("prod", "staging"), "version": ("1.4.0", "1.4.1", "2.0.0-rc1")}


class SampleLines:
    """Makes lines; the same ones for the same `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._services = list(SERVICES)
        self._levels = list(LEVELS)
        self._weights = list(LEVELS.values())

    def line(self) -> dict[str, object]:
        """As `POST /v1/logs` takes it."""
        rng = self._rng
        service = rng.choice(self._services)
        line: dict[str, object] = {
            "service": service,
            "level": rng.choices(self._levels, self._weights)[0],
            "message": rng.choice(SERVICES[service]).format(n=rng.randrange(1, 10_000)),
        }
        labels = {name: rng.choice(values) for name, values in LABELS.items() if rng.random() < 0.5}
        if labels:
            line["labels"] = labels
        return line

    def batch(self, count: int) -> list[dict[str, object]]:
        return [self.line() for _ in range(count)]
