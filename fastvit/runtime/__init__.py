"""The process and the machine: device, several processes, randomness, signals, memory, time, versions."""
