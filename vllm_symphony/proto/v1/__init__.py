"""Generated from protos/symphony/v1 by scripts/protos; never edited."""
