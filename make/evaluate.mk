# Alarms over time, judged against simulated truth; a fragment of the Makefile.

MODEL ?= artifacts/model
QUICK ?=

.PHONY: evaluate

evaluate: $(READY)  ## alarms of MODEL=artifacts/model over time, into docs/evaluation.md: an hour; QUICK=1: five minutes
	@PYTHONPATH=benchmarks $(BIN)/python -m evaluation --model "$(MODEL)" $(if $(QUICK),--quick)
