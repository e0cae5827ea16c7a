"""Which source a failure was seen with."""

import subprocess
from pathlib import Path

from trio_eventlog.release import VERSION

GIT_SECONDS_MAX = 5.0


def revision() -> str:
    """The version, and the commit when the package lies in a checkout, with a `+` when something there is not committed."""
    version = f"trio-eventlog {VERSION}"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS_MAX,
        )
    except (OSError, subprocess.SubprocessError):
        # No git, or no checkout.
        return version
    return f"{version}, commit {described.stdout.strip()}"
