"""What a run would take, before anything is started: memory, bytes on every link, seconds, and what to change."""
