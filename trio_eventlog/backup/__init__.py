"""Backups: a copy of a whole cluster, taken while it works; and a new cluster made of one, or of what a lost majority has left.

`taking` reads the cluster, `target` is where it goes, `manifest` says what belongs to it; `files` opens one, `check` looks at every
byte, `restore` makes a data directory of it. Everything is in files that a person can copy; see docs/design/backup.md.
"""

from trio_eventlog.backup.check import check_backup
from trio_eventlog.backup.files import BackupFiles, open_backup
from trio_eventlog.backup.manifest import BackupManifest, StoredFile, StoredGroup
from trio_eventlog.backup.recovering import RecoveredGroup, RecoverySettings, plan, recover
from trio_eventlog.backup.restore import Restored, restore
from trio_eventlog.backup.survivors import SurvivingReplica, Survivors, find_survivors, held
from trio_eventlog.backup.taking import Progress, take_backup
from trio_eventlog.backup.target import STANDARD_OUTPUT, ArchiveTarget, BackupTarget, DirectoryTarget, open_target

__all__ = [
    "STANDARD_OUTPUT",
    "ArchiveTarget",
    "BackupFiles",
    "BackupManifest",
    "BackupTarget",
    "DirectoryTarget",
    "Progress",
    "RecoveredGroup",
    "RecoverySettings",
    "Restored",
    "StoredFile",
    "StoredGroup",
    "SurvivingReplica",
    "Survivors",
    "check_backup",
    "find_survivors",
    "held",
    "open_backup",
    "open_target",
    "plan",
    "recover",
    "restore",
    "take_backup",
]
