"""What the student can do: greedy answers against gold answers, and how likely it finds what it knew before."""
