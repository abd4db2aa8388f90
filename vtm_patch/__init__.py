"""Adapts a user-supplied VTM tree to the engine: patch sets and the command that applies them."""
