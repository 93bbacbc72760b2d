"""Environments that an agent can learn in."""
