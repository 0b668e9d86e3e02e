"""The long-running component: connection, settings, models, worker and health."""
