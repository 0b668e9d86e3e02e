# From a PLC to an alarm; a fragment of the Makefile.

.PHONY: demo-line

demo-line: $(READY)  ## a PLC over OPC UA, the bridge, and all behind it: DEMO_SECONDS=60; MAPPING=FILE: your own line
	@$(BIN)/python scripts/demo_line.py $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS)) $(if $(MAPPING),--mapping "$(MAPPING)")
