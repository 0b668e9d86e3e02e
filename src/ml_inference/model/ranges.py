"""Where the training data of a feature mostly lay, for the shading behind a curve and for saying that a value is high or low."""

from __future__ import annotations

from itertools import accumulate

from ml_inference.model.manifest import Feature

TAIL = 0.05
"""Share of the training data that lies below the range, and as much above it."""


def training_range(feature: Feature) -> tuple[float, float] | None:
    """The range in which nine of ten training readings lay, in the feature's unit.

    Args:
        feature: A feature of a manifest.

    Returns:
        Its ends; None where the manifest holds no histogram with readings in it, or the feature is a category.
    """
    histogram = feature.histogram
    if histogram is None or feature.categories is not None or not any(histogram.counts):
        return None
    sums = list(accumulate(histogram.counts, initial=0))

    def quantile(share: float) -> float:
        wanted = share * sums[-1]
        bin_number = next(number for number in range(len(histogram.counts)) if sums[number + 1] >= wanted)
        low, high = histogram.edges[bin_number], histogram.edges[bin_number + 1]
        count = histogram.counts[bin_number]
        return low + (high - low) * (wanted - sums[bin_number]) / count if count else low

    return quantile(TAIL), quantile(1 - TAIL)
