/* A job's mount namespace on this node: made once, pinned, joined by every task of every step. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define REPORT 65536

typedef struct {
	const ebb_settings *settings;
	const ebb_plan *plan;
	uint32_t job;
	int lock;
	int home; /* the node's mount namespace */
} making;

static int say(int out, const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t n = write(out, text, left);
		if (n <= 0)
			return -1;
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

static int say_errno(int out, const char *what)
{
	char text[EBB_TEXT];

	snprintf(text, sizeof(text), "%s: %s; tell the administrator", what, strerror(errno));
	say(out, text);
	return -1;
}

/* The mounts, in whatever namespace this child is. Writes what went wrong; on success the file beside the pin. */
static int make_mounts(int out, const making *m, const char *report_path)
{
	static char report[REPORT];
	char text[EBB_TEXT];

	if (ebb_mounts_make(m->plan, m->settings, m->home, report, sizeof(report), text, sizeof(text)) != 0) {
		say(out, text);
		return -1;
	}
	return ebb_file_write(report_path, report, strlen(report)) == 0 ? 0 : say_errno(out, report_path);
}

static int bind_space(int space, const char *target)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", space);
	return mount(link, target, NULL, MS_BIND, NULL);
}

/*
 * Enter a new namespace that can be pinned in the one we come from. The kernel pins only a younger namespace, to
 * exclude circles, and tells age by an id. Newer kernels (seen on 6.18) hand the ids out in batches of 4096 a CPU, so
 * that one made on another CPU can look older than that of a slurmd in a namespace of its own: then ids are used up
 * until a new batch begins, which costs 10 ms. Returns a descriptor of the new namespace, or -1 with errno.
 */
static int new_space(int home, const char *probe)
{
	int round, i, space;

	for (round = 0; round < 10; round++) {
		if (unshare(CLONE_NEWNS) != 0)
			return -1;
		space = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
		if (space < 0 || setns(home, CLONE_NEWNS) != 0)
			return -1;
		if (bind_space(space, probe) == 0) {
			umount2(probe, MNT_DETACH);
			return setns(space, CLONE_NEWNS) == 0 ? space : -1;
		}
		if (errno != EINVAL)
			return -1;
		close(space);
		for (i = 0; i < 512; i++)
			if (unshare(CLONE_NEWUTS) != 0)
				return -1;
	}
	errno = EINVAL;
	return -1;
}

/*
 * In a child: a new namespace with the mounts, then back home to bind it on the pin. Slave, not private: what the
 * administrator mounts or unmounts on the node later still reaches the job.
 */
static int build(int out, void *argument)
{
	making *m = argument;
	char pin[PATH_MAX], probe[PATH_MAX], report_path[PATH_MAX], text[EBB_TEXT];
	int home, space;

	if (m->lock >= 0)
		close(m->lock); /* a child that hangs must not keep it */
	ebb_pin_path(m->settings, m->job, "", pin, sizeof(pin));
	ebb_pin_path(m->settings, m->job, ":probe", probe, sizeof(probe));
	ebb_pin_path(m->settings, m->job, ":mounts", report_path, sizeof(report_path));
	home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (home < 0 || ebb_file_write(probe, "", 0) != 0)
		return say_errno(out, probe);
	m->home = home;
	space = new_space(home, probe);
	unlink(probe);
	if (space < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
		return say_errno(out, "making a mount namespace for the job");
	if (make_mounts(out, m, report_path) != 0)
		return -1;
	if (ebb_leave_run_directory(m->settings->run, text, sizeof(text)) != 0) {
		say(out, text);
		return -1;
	}
	if (setns(home, CLONE_NEWNS) != 0 || bind_space(space, pin) != 0)
		return say_errno(out, "pinning the job's mount namespace");
	return say(out, text);
}

/*
 * Make and pin a job's namespace; the caller holds the job's lock. 0, and text is empty or has a note for the log; or -1
 * with a message.
 */
int ebb_namespace_make(const ebb_settings *settings, uint32_t job, const ebb_plan *plan, int lock, char *text,
		       size_t size)
{
	making m = {settings, plan, job, lock, -1};
	char pin[PATH_MAX];
	int fd;

	ebb_pin_path(settings, job, "", pin, sizeof(pin));
	fd = open(pin, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		snprintf(text, size, "%s cannot be made: %s; tell the administrator", pin, strerror(errno));
		return -1;
	}
	close(fd);
	if (ebb_child_run(build, &m, EBB_MOUNT_SECONDS, text, size) == 0)
		return 0;
	if (!text[0])
		snprintf(text, size, "the mounts could not be made, and nothing says why; tell the administrator");
	return -1;
}

/* Whether this process is in another mount namespace than its parent: Slurm's job_container/tmpfs put it there. */
static int in_container(void)
{
	char parent[64];
	struct stat mine, theirs;

	snprintf(parent, sizeof(parent), "/proc/%d/ns/mnt", (int)getppid());
	return stat("/proc/self/ns/mnt", &mine) == 0 && stat(parent, &theirs) == 0 && mine.st_ino != theirs.st_ino;
}

static int build_here(int out, void *argument)
{
	making *m = argument;
	char done[PATH_MAX];

	close(m->lock);
	snprintf(done, sizeof(done), "%s/ns.mounted", m->settings->run);
	return make_mounts(out, m, done);
}

/* The same places as the parent, who is outside of the container, sees them. */
static ebb_settings outside(const ebb_settings *settings)
{
	ebb_settings outer = *settings;

	snprintf(outer.run, sizeof(outer.run), "/proc/%d/root%.400s", (int)getppid(), settings->run);
	return outer;
}

/*
 * Inside a job_container/tmpfs namespace, which is the job's own already and must not be left: make the mounts in it,
 * once. The pin is not to be seen from there; the plan is, through the parent's root.
 */
static int join_container(const ebb_settings *settings, uint32_t job, char *text, size_t size)
{
	making m = {NULL, NULL, job, -1, -1};
	ebb_settings outer = outside(settings);
	char path[PATH_MAX], done[PATH_MAX], *data = NULL;
	ebb_plan plan;
	struct stat space;
	ssize_t length;
	int result = -1;

	ebb_pin_path(&outer, job, ":plan", path, sizeof(path));
	length = ebb_file_read(path, &data);
	if (length < 0 || ebb_plan_read(&plan, data, (size_t)length) != 0) {
		free(data);
		snprintf(text, size, "the plan of the job's mounts cannot be read; tell the administrator");
		return -1;
	}
	ebb_pin_path(&outer, job, ":lock", path, sizeof(path));
	m.lock = ebb_lock(path, EBB_MOUNT_SECONDS);
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)getppid());
	m.home = open(path, O_RDONLY | O_CLOEXEC);
	/* Done once a namespace: the mark names it, for a requeued job gets another. */
	if (stat("/proc/self/ns/mnt", &space) == 0 && m.lock >= 0 && m.home >= 0) {
		char mark[64];

		snprintf(mark, sizeof(mark), ":in.%llu", (unsigned long long)space.st_ino);
		ebb_pin_path(&outer, job, mark, done, sizeof(done));
		m.settings = settings;
		m.plan = &plan;
		if (access(done, F_OK) == 0)
			result = 0;
		else if (ebb_child_run(build_here, &m, EBB_MOUNT_SECONDS, text, size) == 0)
			result = ebb_file_write(done, "", 0);
	}
	if (result != 0 && !text[0])
		snprintf(text, size, "the mounts could not be made in the job's container; tell the administrator");
	if (m.lock >= 0)
		close(m.lock);
	if (m.home >= 0)
		close(m.home);
	ebb_plan_free(&plan);
	free(data);
	return result == 0 ? 1 : -1;
}

/*
 * Where the program shall start: where Slurm put it, seen again in the new namespace. If Slurm could not enter the
 * directory, for it exists in the buffer only, it fell back to /tmp; then `wanted` (the step's PWD) is tried.
 */
static int enter_directory(const char *was, const char *wanted, int hidden, const ebb_user *user)
{
	ebb_user before;
	int result;

	if (ebb_become(user, &before) != 0)
		return -1;
	result = hidden ? chdir(wanted) : -1;
	if (result != 0)
		result = chdir(was);
	if (result != 0)
		result = chdir("/tmp"); /* as Slurm does */
	ebb_return(&before);
	return result;
}

static int reachable(const char *directory, const ebb_user *user)
{
	ebb_user before;
	int fd;

	if (ebb_become(user, &before) != 0)
		return 1;
	fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	ebb_return(&before);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static int join_pin(int fd, const ebb_user *user, const char *directory, char *text, size_t size)
{
	char was[PATH_MAX];
	int hidden;

	if (!getcwd(was, sizeof(was)))
		snprintf(was, sizeof(was), "/tmp");
	hidden = directory && directory[0] == '/' && strcmp(was, "/tmp") == 0 && !reachable(directory, user);
	if (setns(fd, CLONE_NEWNS) != 0) { /* only a process that shares its fs state with none may: the task's child */
		snprintf(text, size, "joining the job's mount namespace: %s; tell the administrator", strerror(errno));
		return -1;
	}
	enter_directory(was, directory, hidden, user);
	return 1;
}

/* The message that stands in place of a namespace. */
static int read_refusal(int fd, char *text, size_t size)
{
	ssize_t length = pread(fd, text, size - 1, 0);

	text[length > 0 ? length : 0] = '\0';
	if (length <= 0)
		snprintf(text, size, "the job's mounts were not finished on this node; try again, or tell the administrator");
	return -1;
}

/*
 * Put the calling process, a task's child before it becomes the user, where the job's buffers are mounted. Called for
 * every task: C only, and one open() for a job without a buffer. expected: the step's environment speaks of buffers.
 */
int ebb_namespace_join(const ebb_settings *settings, uint32_t job, int expected, const ebb_user *user,
		       const char *directory, char *text, size_t size)
{
	char pin[PATH_MAX];
	enum ebb_pin_state state;
	int fd, result;

	ebb_pin_path(settings, job, "", pin, sizeof(pin));
	fd = open(pin, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT && !expected)
		return 0;
	text[0] = '\0';
	state = ebb_pin_look(fd);
	if (state != EBB_PIN_NAMESPACE && in_container()) {
		ebb_settings outer = outside(settings);

		if (fd >= 0)
			close(fd);
		ebb_pin_path(&outer, job, "", pin, sizeof(pin));
		fd = open(pin, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		state = ebb_pin_look(fd);
		if (state == EBB_PIN_NAMESPACE) {
			close(fd);
			return join_container(settings, job, text, size);
		}
	}
	if (state == EBB_PIN_NAMESPACE) {
		result = join_pin(fd, user, directory, text, size);
	} else if (state == EBB_PIN_TEXT) {
		result = read_refusal(fd, text, size);
	} else {
		snprintf(text, size, "the job's buffers were not prepared on this node; slurmd's log says why");
		result = -1;
	}
	if (fd >= 0)
		close(fd);
	return result;
}
