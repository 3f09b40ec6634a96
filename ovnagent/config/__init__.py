"""The configuration file: its form, its meaning, and its change while the agent runs."""
