"""Messages that wait on disk for the cloud."""
