"""End-to-end tests on virtual clusters: LVM, NFS-Ganesha, NFSv4.1 and Slurm's releases, installed from our packages."""
