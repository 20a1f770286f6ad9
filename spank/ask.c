/* The way from C to the Python part, taken by a job's first step on a node. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static ebb_decide_function *decide;

/*
 * The other half lies beside this file. It is loaded when it is needed, not by the linker: libpython would cost each
 * srun and each slurmstepd of the site some milliseconds.
 */
static int load_python_part(char *text, size_t size)
{
	char path[PATH_MAX];
	const char *slash;
	Dl_info here;
	void *part;

	if (decide)
		return 0;
	if (dladdr((void *)(uintptr_t)ebb_ask, &here) == 0 || !here.dli_fname || !(slash = strrchr(here.dli_fname, '/'))) {
		snprintf(text, size, "the plugin does not know where it lies; give plugstack.conf its absolute path");
		return EBB_REFUSE;
	}
	snprintf(path, sizeof(path), "%.*s/spank_ebb_python.so", (int)(slash - here.dli_fname), here.dli_fname);
	part = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (part)
		decide = (ebb_decide_function *)(uintptr_t)dlsym(part, "ebb_decide");
	if (!decide) {
		snprintf(text, size, "the plugin's Python part does not load: %s; tell the administrator", dlerror());
		return EBB_REFUSE;
	}
	return 0;
}

/*
 * Ask the Python part what a step mounts: an ebb_kind, and the message of EBB_REFUSE in text. Once a job and node.
 * Python may write to a socket whose other end is gone; without Python's own signal handlers that would kill the host.
 */
int ebb_ask(ebb_step *step, ebb_answer *answer, char *text, size_t size)
{
	sigset_t pipe_signal, before, pending;
	struct timespec now = {0, 0};
	int result;

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
	result = load_python_part(text, size);
	if (result == 0)
		result = decide(step, answer, text, size);
	sigpending(&pending);
	if (sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe_signal, NULL, &now);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return result;
}
