"""The OVN edge: rows become values here, once, and values become operations."""
