"""A stand-in for the Greengrass nucleus on one's own machine."""
