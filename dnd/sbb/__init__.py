"""SBB, the smart burst buffer, on a datanode: what starts, watches and describes `sbbd` (engine: docs/sbb.md)."""
