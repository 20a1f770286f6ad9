"""A private Ebb and Slurm cluster for people, the demo and the tests; `ctl` in this folder is its command.

`kinds` says what a kind of cluster can do, `local` has all nodes on this machine inside namespaces of its own,
`harness` is what tests and the demo hold in their hands.
"""
