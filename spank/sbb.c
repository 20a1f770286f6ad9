/*
 * One target of an SBB: a FUSE mount over the user's directory, served by a client process that runs as the user.
 *
 * The client is no part of the job's mount namespace, or the namespace would never end: it lives as long as its FUSE
 * connection, which the kernel ends with the last mount. It is in none of Slurm's cgroups and nobody's child, so that no
 * step ends it and it keeps no step from ending.
 *
 * Mounted with allow_other: slurmstepd enters a working directory with the user's effective uid only, which is not
 * enough for FUSE. In this namespace there is nobody else, and default_permissions has the kernel check modes.
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOKEN 32
#define FIRST_FREE 16 /* descriptors of the client lie below */
#define ANSWER_SECONDS 25

enum { CONFIG_FD = 3, KEY_FD, FUSE_FD, TARGET_FD, AFTER_FDS };

typedef struct {
	const ebb_user *user;
	const char *program;
	int home; /* the mount namespace to live in, -1: the present one */
	int fds[AFTER_FDS]; /* the first three: /dev/null, /dev/null, the pipe for its complaint */
} client;

static int say(char *text, size_t size, const ebb_mount *wanted, const char *what, const char *why)
{
	snprintf(text, size, "buffer %s cannot be mounted on %s: %s: %s", wanted->name, wanted->path, what, why);
	return -1;
}

static int in_memory(const char *name, const void *data, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd >= 0 && (write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The token stands in the plan as hexadecimal digits. */
static int token_file(const char *digits)
{
	unsigned char token[TOKEN];
	int i, fd;

	if (strlen(digits) != 2 * TOKEN)
		return -1;
	for (i = 0; i < TOKEN; i++) {
		unsigned value;

		if (sscanf(digits + 2 * i, "%2x", &value) != 1)
			return -1;
		token[i] = (unsigned char)value;
	}
	fd = in_memory("ebb-sbb-token", token, sizeof(token));
	explicit_bzero(token, sizeof(token));
	return fd;
}

/* Out of the step's cgroups, version 1 or 2, whose end would be the client's. Where Slurm makes none there are none. */
static void leave_cgroups(void)
{
	FILE *list = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t room = 0;

	while (list && getline(&line, &room, list) >= 0) {
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
		char file[256];
		int fd;

		if (!path || !strstr(path, "slurm"))
			continue;
		*path = '\0';
		controllers++;
		if (strncmp(controllers, "name=", 5) == 0)
			controllers += 5;
		snprintf(file, sizeof(file), "/sys/fs/cgroup/%.200s%scgroup.procs", controllers, *controllers ? "/" : "");
		fd = open(file, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (write(fd, "0", 1) != 1)
			dprintf(STDERR_FILENO, "leaving the step's cgroup %s: %s\n", file, strerror(errno));
		close(fd);
	}
	free(line);
	if (list)
		fclose(list);
}

static int drop_to(const ebb_user *user)
{
	return setgroups((size_t)user->group_count, user->groups) == 0 &&
			       setresgid(user->gid, user->gid, user->gid) == 0 &&
			       setresuid(user->uid, user->uid, user->uid) == 0 &&
			       prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
		       ? 0
		       : -1;
}

static int number_descriptors(const client *c)
{
	int high[AFTER_FDS], i;

	for (i = 0; i < AFTER_FDS; i++)
		if ((high[i] = fcntl(c->fds[i], F_DUPFD, FIRST_FREE)) < 0)
			return -1;
	for (i = 0; i < AFTER_FDS; i++)
		if (dup2(high[i], i) < 0)
			return -1;
	return syscall(SYS_close_range, AFTER_FDS, ~0U, 0) == 0 ? 0 : -1;
}

/* Never returns: the client's program, or a complaint on standard error. */
static void __attribute__((noreturn)) become_client(const client *c)
{
	char *arguments[] = {(char *)"sbb-client", (char *)"--config-fd", (char *)"3", (char *)"--key-fd", (char *)"4",
			     (char *)"--fuse-fd", (char *)"5", (char *)"--target-fd", (char *)"6", NULL};
	char *environment[] = {(char *)"PATH=/usr/bin:/bin", (char *)"LC_ALL=C.UTF-8", NULL};
	char program[EBB_PATH];

	snprintf(program, sizeof(program), "%s", c->program);
	/* After its complaint nobody reads standard error any more. */
	signal(SIGPIPE, SIG_IGN);
	if (c->home >= 0 && setns(c->home, CLONE_NEWNS) != 0)
		dprintf(c->fds[STDERR_FILENO], "leaving the job's mount namespace: %s\n", strerror(errno));
	else if (number_descriptors(c) != 0 || chdir("/") != 0)
		dprintf(STDERR_FILENO, "arranging its descriptors: %s\n", strerror(errno));
	else {
		umask(022);
		leave_cgroups();
		if (drop_to(c->user) != 0)
			dprintf(STDERR_FILENO, "becoming the user: %s\n", strerror(errno));
		else {
			execve(program, arguments, environment);
			dprintf(STDERR_FILENO, "%s: %s\n", program, strerror(errno));
		}
	}
	_exit(127);
}

/* Start it as nobody's child. 0 or -1 with errno. */
static int start(const client *c)
{
	pid_t middle = fork();
	int status;

	if (middle == 0) {
		pid_t last;

		setsid();
		last = fork();
		if (last == 0)
			become_client(c);
		_exit(last < 0);
	}
	if (middle < 0)
		return -1;
	while (waitpid(middle, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* As the user, for nobody else may: does the mount answer? 0, an errno, or ETIMEDOUT. */
static int look(const ebb_user *user, const char *path)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		struct stat about;

		signal(SIGALRM, SIG_DFL);
		alarm(ANSWER_SECONDS);
		_exit(drop_to(user) != 0 || stat(path, &about) != 0 ? (errno & 0xff) : 0);
	}
	if (child < 0)
		return errno;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : ETIMEDOUT;
}

/* The last line that the client wrote before it ended, or what the look at the mount gave. */
static void complaint(int pipe, int error, char *line, size_t size)
{
	struct pollfd wait = {pipe, POLLIN, 0};
	char text[EBB_TEXT / 2];
	size_t used = 0;
	ssize_t n;

	while (used < sizeof(text) - 1 && poll(&wait, 1, 1000) > 0 &&
	       (n = read(pipe, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)n;
	while (used > 0 && (unsigned char)text[used - 1] <= ' ')
		used--;
	text[used] = '\0';
	snprintf(line, size, "%s", used ? (strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text) : strerror(error));
}

/*
 * Begin to serve: mount on root's own place, to be moved over the target. `target` is the target itself, opened before.
 * Returns a descriptor from which ebb_sbb_check learns of trouble, or -1 with a message.
 */
int ebb_sbb_mount(const ebb_plan *plan, const ebb_mount *wanted, const ebb_settings *settings, int home, int target,
		  const char *stage, char *text, size_t size)
{
	client c = {&plan->user, settings->client, home, {-1, -1, -1, -1, -1, -1, -1}};
	int pipes[2] = {-1, -1}, i, result = -1;
	char options[128];

	c.fds[0] = c.fds[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	c.fds[CONFIG_FD] = in_memory("ebb-sbb-config", wanted->source, strlen(wanted->source));
	c.fds[KEY_FD] = token_file(wanted->options);
	c.fds[FUSE_FD] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	c.fds[TARGET_FD] = target;
	if (c.fds[FUSE_FD] < 0) {
		say(text, size, wanted, "/dev/fuse of this node", strerror(errno));
	} else if (c.fds[0] < 0 || c.fds[CONFIG_FD] < 0 || c.fds[KEY_FD] < 0 || pipe2(pipes, O_CLOEXEC) != 0) {
		say(text, size, wanted, "preparing its client", strerror(errno));
	} else {
		c.fds[STDERR_FILENO] = pipes[1];
		snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,"
			 "allow_other",
			 c.fds[FUSE_FD], (unsigned)plan->user.uid, (unsigned)plan->user.gid);
		if (mount("sbb", stage, "fuse.sbb", MS_NOSUID | MS_NODEV, options) != 0) {
			say(text, size, wanted, "mounting it", strerror(errno));
		} else if (start(&c) != 0) {
			say(text, size, wanted, "starting its client", strerror(errno));
			umount2(stage, MNT_DETACH);
		} else {
			result = pipes[0];
		}
	}
	for (i = 1; i < TARGET_FD; i++)
		if (c.fds[i] >= 0)
			close(c.fds[i]);
	if (result < 0 && pipes[0] >= 0)
		close(pipes[0]);
	return result;
}

/* Wait until the mount, now in its place, answers. Closes the descriptor. 0 or -1 with a message. */
int ebb_sbb_check(const ebb_plan *plan, const ebb_mount *wanted, int pipe, const char *real, char *text, size_t size)
{
	int error = look(&plan->user, real);
	char line[EBB_TEXT / 2];

	if (error != 0) {
		complaint(pipe, error, line, sizeof(line));
		say(text, size, wanted, "its servers", line);
	}
	close(pipe);
	return error == 0 ? 0 : -1;
}
