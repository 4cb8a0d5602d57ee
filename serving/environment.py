"""Environment variables that say how to reach a server, where no option does: in a cluster they come from secrets."""

TOKEN = "GET3D_TOKEN"
"""The server's token."""
CONTROL_TOKEN = "GET3D_CONTROL_TOKEN"
"""The token for loading models."""
TLS_CA = "GET3D_TLS_CA"
"""Certificates to trust: a PEM file's path, or what is in it."""
