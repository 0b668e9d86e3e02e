"""The door for a line: values from MQTT, OPC UA and Modbus in, readings for the inference component out."""
