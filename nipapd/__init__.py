"""The process around nipap: configuration, private PostgreSQL, supervisor and request handlers."""
