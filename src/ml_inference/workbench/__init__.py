"""What a developer's machine does and a device never does: training and packaging models."""
