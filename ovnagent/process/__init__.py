"""A process' household: threads that do not die in silence, memory given back, logs."""
