"""Training on a developer's machine: table in, model directory and report out. Never installed on a device."""


class TrainingError(Exception):
    """The data or the options do not allow a model that can be trusted; the message says what to change."""
