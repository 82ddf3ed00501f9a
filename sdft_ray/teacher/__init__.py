"""The teacher's view of a completion: its distribution at every token, or no more than the token itself."""
