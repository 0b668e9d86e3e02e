"""A page for the line: shows what the inference component publishes. It only listens, and scores nothing itself."""
