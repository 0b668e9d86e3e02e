"""A device has no scikit-learn; where it is installed, XGBoost takes it in at every start, which costs half a second."""

raise ImportError("a device has no scikit-learn")
