"""Numbered, append-only steps of the schema."""
