"""From a booster file of unknown origin to a model directory; on a developer's machine, never on a device."""
