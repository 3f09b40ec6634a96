"""`ovnagent plug`: the process on every node that gives interfaces their ports' names."""
