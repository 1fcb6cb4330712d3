"""The command `nipap`: what operators do with a daemon from a shell."""
