"""The system calls: one file per group of them, and the table that finds them."""
