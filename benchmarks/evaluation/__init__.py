"""Judges the product over time: alarms of simulated lines against the truth of their stories, with the device's own code.

Readings go through `ml-inference score`, as a device would score them; what is judged are the alarm messages that come out. It must
never look at a score or at anything inside the product.
"""
