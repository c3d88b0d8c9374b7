"""The edge: gRPC in front of the kernel's socket. It computes nothing and keeps nothing."""
