/* A child process that does one thing in a mount namespace and writes what it found; no Python runs in it. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fresh_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* of the thread that forked: the host's main one in all our hooks */
}

/*
 * Run `work` in a child. It writes to `out`; what it writes, up to its end, becomes `text`. Returns 0 if it did so
 * in time; a child that hangs (a server that does not answer) is killed at the deadline, and left to the kernel.
 */
int ebb_child_run(int (*work)(int out, void *argument), void *argument, int seconds, char *text, size_t size)
{
	struct timespec now, end;
	size_t used = 0;
	int pipes[2], status = -1, tries;
	pid_t child;

	text[0] = '\0';
	if (pipe2(pipes, O_CLOEXEC) != 0)
		return -1;
	child = fork();
	if (child == 0) {
		close(pipes[0]);
		fresh_signals();
		_exit(work(pipes[1], argument) == 0 ? 0 : 1);
	}
	close(pipes[1]);
	if (child < 0) {
		close(pipes[0]);
		return -1;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	for (;;) {
		struct pollfd wait = {pipes[0], POLLIN, 0};
		long left;
		ssize_t n;

		clock_gettime(CLOCK_MONOTONIC, &now);
		left = (end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
		if (left <= 0 || poll(&wait, 1, (int)left) == 0) {
			kill(child, SIGKILL);
			snprintf(text, size, "no answer within %d s", seconds);
			used = 0;
			break;
		}
		n = read(pipes[0], text + used, size - 1 - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += (size_t)n;
		text[used] = '\0';
		if (used == size - 1)
			break;
	}
	close(pipes[0]);
	/* Pauses of 0.1 ms growing to 1 s together: a process in an endless system call ends later than that. */
	for (tries = 0; tries < 140; tries++) {
		struct timespec pause = {0, 100 * 1000L * (tries + 1)};
		pid_t ended = waitpid(child, &status, WNOHANG);

		if (ended == child)
			return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
		if (ended < 0 && errno != EINTR)
			return -1;
		nanosleep(&pause, NULL);
	}
	return -1;
}
