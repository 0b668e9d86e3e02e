"""What results become on their way out: topics, encodings, pace, and the outbox. Never holds up scoring."""
