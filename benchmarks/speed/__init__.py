"""How fast the component is, measured beside what it could be at most: bare XGBoost, and a component that only echoes bytes.

Everything is a comparison within one run, since a machine's own speed changes by half from one hour to the next. It must never measure
anything but what a device runs: its packages only, one OpenMP thread, the shipped model.
"""
