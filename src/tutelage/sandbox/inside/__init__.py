"""What runs in the other process, with the standard library alone: it supervises, confines itself, then runs code nobody vouches for."""
