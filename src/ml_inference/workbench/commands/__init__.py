"""The commands of a developer's machine, a module each, found by `ml_inference.cli.main` where they are installed."""
