"""Seeing what the machine did: the event log and its text."""
