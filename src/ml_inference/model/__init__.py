"""A model directory: its manifest, its checks, and the booster that scores."""
