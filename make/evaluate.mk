# Alarms over time, judged against simulated truth; a fragment of the Makefile.

MODEL ?= artifacts/model
QUICK ?=
JOBS ?=
MINUTES ?=

.PHONY: evaluate

evaluate: $(READY)  ## alarms of MODEL=artifacts/model over time, into docs/evaluation.md: an hour; QUICK=1: five minutes; JOBS=1: one process; MINUTES=40: what can be done in these
	@PYTHONPATH=benchmarks $(BIN)/python -m evaluation --model "$(MODEL)" $(if $(QUICK),--quick) $(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES))
