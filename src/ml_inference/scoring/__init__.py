"""From the bytes of a message to validated readings, scores and verdicts. Pure: no I/O, no threads, no clock of its own."""
