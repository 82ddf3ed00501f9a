"""Where a job runs besides this machine: pods from a cluster file, and what each target is handed."""
