"""Starts a program as slurmscriptd does a hook, beside another hook that is just being started.

    pipes.py COMMAND WORD...

COMMAND gets the write end of its own pipe as descriptor 20, both ends of another's as 21 and 22, and both ends of one
that does not block, as Slurm uses for itself, as 23 and 24. Prints which of them it still has after it wrote a line.
"""

import os
import subprocess
import sys

for first, second in ((19, 20), (21, 22), (23, 24)):
    for end, number in zip(os.pipe(), (first, second), strict=True):
        os.dup2(end, number)
        os.close(end)
for end in (23, 24):
    os.set_blocking(end, False)
process = subprocess.Popen(
    sys.argv[1:], pass_fds=(20, 21, 22, 23, 24), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
if process.stdout is not None:
    process.stdout.readline()
print(*(number for number in range(20, 25) if os.path.lexists(f"/proc/{process.pid}/fd/{number}")))
process.communicate()
