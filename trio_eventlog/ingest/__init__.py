"""Log lines on their way into the log: what programs and agents send, as canonical lines of the topic `logs`."""
