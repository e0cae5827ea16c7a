"""Search of log lines by scanning batches: pure, bytes in, lines out. See docs/design/search.md."""
