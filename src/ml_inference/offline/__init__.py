"""Files in place of IPC, through the same pipeline as on a device."""
