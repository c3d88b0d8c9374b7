"""The ABI: what crosses the line between a program and the kernel (dataclasses, ids, call table). Imports nothing heavy."""
