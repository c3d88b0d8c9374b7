"""What `symphony doctor` looks at: one file a subject, each check a generator of findings (cli/checks/finding.py)."""
