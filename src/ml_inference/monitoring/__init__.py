"""What the component knows about the machines and about itself: states, counters. Pure: no I/O, no clock of its own."""
