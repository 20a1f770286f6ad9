"""Moving data into datasets and out again, as one Slurm job of the calling user: `ebb migrate`.

On the login node: command -> submit (scan, names, script) -> follow. In the job: job (scan, balance) on its first node,
task (rsync, verify) on all of them. They speak through the files of `work`. See docs/users.md.
"""
