"""The shortest path with exactly K jumps, for every K. What costs mean is not known here."""
