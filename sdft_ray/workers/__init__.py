"""The workers of one role: what every Ray actor of this job is, how it is called, what becomes of a lost one."""
