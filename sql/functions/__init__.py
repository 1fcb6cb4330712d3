"""Functions, put in place after each migration."""
