"""The limits that the operating system puts on this process."""

import logging
import resource

logger = logging.getLogger(__name__)

UNLIMITED_DESCRIPTORS = 1 << 20
"""What "no limit" is taken for."""


def descriptors_max(*, raises: bool) -> int:
    """How many descriptors the process may have open.

    Args:
        raises: raise the soft limit to the hard one first. It holds for the whole process and for those it starts.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if raises and soft != hard:
        wanted = UNLIMITED_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            # macOS names a hard limit that it does not grant.
            logger.warning("the limit of descriptors stays at %d: it cannot be raised to %d: %s", soft, wanted, error)
        else:
            logger.info("the limit of descriptors was raised from %d to %d", soft, wanted)
            soft = wanted
    return UNLIMITED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
