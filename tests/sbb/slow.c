/*
 * Preloaded into a server: its system calls take a random time, up to SLOW_US, as on a busy machine with a slow disk. What depends
 * on the order in which threads happen to run then shows within seconds instead of months.
 *
 * FAIL: of so many writes and syncs of the store one fails. SYNCED: beside a segment of the store's log, log.N, lies how much of it
 * was synced, as the size of synced.log.N: a test that cuts the segment there has what a power cut leaves at least.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned int chance(void)
{
	static _Thread_local unsigned int state;
	if (!state)
		state = (unsigned int)(size_t)&state ^ (unsigned int)getpid();
	return (unsigned int)rand_r(&state);
}

static void wait_a_little(void)
{
	const char *most = getenv("SLOW_US");
	if (most && chance() % 4 == 0)
		usleep(chance() % (unsigned int)atoi(most));
}

static char *in_store(int fd, char path[4096])
{
	char self[64];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(self, path, 4095);
	path[length < 0 ? 0 : length] = 0;
	return strstr(path, "/store/");
}

static int fails(int fd)
{
	const char *one_of = getenv("FAIL");
	char path[4096];
	if (!one_of || chance() % (unsigned int)atoi(one_of) || !in_store(fd, path))
		return 0;
	errno = chance() % 2 ? EIO : ENOSPC;
	return 1;
}

static void synced(int fd, off_t size)
{
	char path[4096], beside[4096 + 8], *name;
	if (!getenv("SYNCED") || !(name = in_store(fd, path)) || strncmp(name + 7, "log.", 4) != 0)
		return;
	snprintf(beside, sizeof beside, "%.*ssynced.%s", (int)(name + 7 - path), path, name + 7);
	int mark = open(beside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct stat before;
	if (mark >= 0 && (fstat(mark, &before) || before.st_size > size || ftruncate(mark, size)))
		size = 0;
	close(mark);
}

#define SLOW(type, name, parameters, arguments)                                       \
	type name parameters                                                          \
	{                                                                             \
		static type(*real) parameters;                                        \
		if (!real)                                                            \
			real = (type(*) parameters)dlsym(RTLD_NEXT, #name);           \
		wait_a_little();                                                      \
		type result = real arguments;                                         \
		wait_a_little();                                                      \
		return result;                                                        \
	}

SLOW(ssize_t, pread, (int fd, void *into, size_t size, off_t offset), (fd, into, size, offset))
SLOW(ssize_t, pread64, (int fd, void *into, size_t size, off_t offset), (fd, into, size, offset))
SLOW(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
SLOW(ssize_t, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))

/* Half of it is written before it fails. */
#define FAILING_WRITE(name)                                                                              \
	ssize_t name(int fd, const struct iovec *parts, int count, off_t offset)                         \
	{                                                                                                \
		static ssize_t (*real)(int, const struct iovec *, int, off_t);                           \
		if (!real)                                                                               \
			real = (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, #name); \
		wait_a_little();                                                                         \
		if (fails(fd)) {                                                                         \
			int error = errno;                                                               \
			real(fd, parts, (count + 1) / 2, offset);                                        \
			errno = error;                                                                   \
			return -1;                                                                       \
		}                                                                                        \
		ssize_t result = real(fd, parts, count, offset);                                         \
		wait_a_little();                                                                         \
		return result;                                                                           \
	}

FAILING_WRITE(pwritev)
FAILING_WRITE(pwritev64)

int fdatasync(int fd)
{
	static int (*real)(int);
	struct stat now;
	if (!real)
		real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	wait_a_little();
	int known = fstat(fd, &now) == 0;
	if (fails(fd))
		return -1;
	int result = real(fd);
	if (!result && known)
		synced(fd, now.st_size);
	wait_a_little();
	return result;
}
