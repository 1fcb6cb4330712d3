"""The SQL of the schema."""
