"""Evidence: studies on the sandbox, made by one command each (see evidence.py)."""
