"""Tools that an agent can be given."""
