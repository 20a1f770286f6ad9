"""NFS-Ganesha: one server a buffer, exporting that buffer's file system alone."""
