"""The command `nipap`, with which operators use a daemon from a shell."""
