"""dnd, the daemon of one datanode: volumes, file systems and service processes, made so and kept so."""
