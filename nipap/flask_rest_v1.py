"""An older REST endpoint."""
