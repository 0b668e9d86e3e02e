"""The configuration in force, and what each part of the component needs of it."""

from __future__ import annotations

from ml_inference.config import Configuration
from ml_inference.scoring.judgement import Judgement


def judgement_of(configuration: Configuration) -> Judgement:
    """The rules by which the pipeline judges."""
    return Judgement(
        threshold=configuration.threshold,
        debounce_readings=configuration.debounce_readings,
        explain_top_k=configuration.explain_top_k,
    )
