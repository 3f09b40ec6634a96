"""Pure code: values in, values out. No I/O, no threads, no clock."""
