"""What the outside sees over HTTP."""
