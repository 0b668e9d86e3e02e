"""Judges the product over time: alarms of simulated lines against the truth of their stories, with the device's own code.

Readings go through the pipeline as on a device; what is judged are the alarm messages that come out. It must
never look at a score or at anything inside the product.
"""
