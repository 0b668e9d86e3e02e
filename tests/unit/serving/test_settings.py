from __future__ import annotations

from ml_inference.config import parse_configuration
from ml_inference.scoring.judgement import Judgement
from ml_inference.serving.settings import judgement_of


def test_the_pipeline_gets_its_part() -> None:
    configuration = parse_configuration({"Threshold": 0.7, "DebounceReadings": 3, "ExplainTopK": 0})
    assert judgement_of(configuration) == Judgement(threshold=0.7, debounce_readings=3, explain_top_k=0)
