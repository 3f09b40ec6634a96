"""The Kubernetes edge: objects become facts as they are read; records and Events go back."""
