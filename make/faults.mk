# Faults by chance, and endurance; a fragment of the Makefile.

FAULTS_SCHEDULES ?= 300
FAULTS_SEED ?= 1
FAULTS_CYCLES ?= 1000
SOAK_SECONDS ?= 60
OVERLOAD_SECONDS ?= 0
FUZZ_SECONDS ?= 600
BRIDGE_FAULTS ?= 9
export BRIDGE_FAULTS FAULTS_SCHEDULES FAULTS_SEED FAULTS_CYCLES SOAK_SECONDS OVERLOAD_SECONDS

.PHONY: faults soak fuzz bridge-faults

faults: $(READY)  ## FAULTS_SCHEDULES=300 random schedules of faults on both runtimes, from FAULTS_SEED=1 on
	@PYTHONPATH=tests $(BIN)/python -m faults.campaign

soak: $(READY)  ## SOAK_SECONDS=60 at 200 messages a second: latency, memory, accounting
	@PYTHONPATH=tests $(BIN)/python -m faults.soak

fuzz: $(READY)  ## FUZZ_SECONDS=600 of absurd frames and requests for the nucleus stand-in
	@$(BIN)/python packages/greengrass-sandbox/tests/fuzz.py --seconds $(FUZZ_SECONDS)

bridge-faults: $(READY)  ## BRIDGE_FAULTS=9 restarts of broker, OPC UA and Modbus server and nucleus under load, from FAULTS_SEED=1
	@PYTHONPATH=tests $(BIN)/python -m faults.bridge
