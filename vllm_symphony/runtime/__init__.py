"""Where programs run: a fork server, one operating system process for each program, and its link to the kernel."""
