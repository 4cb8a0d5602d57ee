"""`python -m tests.parity FOLDER`: our arrays against the published implementation's."""
