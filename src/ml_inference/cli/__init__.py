"""The commands of `ml-inference`, a module each.

A command module has `configure(parser)`, which declares its options, and `run(arguments)`, which returns the exit code. It
is imported only when it is called, so that a device never needs the developer's extras.
"""
