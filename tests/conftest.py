"""Set before anything imports Ray, which reads it once."""

import os

# What Ray chooses by itself for a cluster it starts. A second process has to know when it joins.
os.environ.setdefault("RAY_AUTH_MODE", "token")
