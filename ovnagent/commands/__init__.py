"""The commands. They look and never write, but for `run`."""
