/*
 * Room for requests of the kernel. As long as there is some, it lies in one piece of memory that servers on this host map as
 * well: bytes then go from a buffer to the server's blocks, or back, in one copy and without a socket.
 */
#include "client.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (MAX_PAYLOAD + 65536)
#define SHARED 64 /* enough for what may be written behind, and for every thread; memory only as far as they are used */
#define KEPT 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pool {
	char *free[SHARED > KEPT ? SHARED : KEPT];
	uint32_t count;
} shared, own;
static char *memory;
static int memory_fd = -1;

void buffers_share(void)
{
	int fd = memfd_create("sbb-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Sealed: a server that reads beyond the end of what was cut short would die. */
	if (fd < 0 || ftruncate(fd, (off_t)SHARED * SIZE) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		goto without;
	memory = mmap(NULL, (size_t)SHARED * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		goto without;
	memory_fd = fd;
	while (shared.count < SHARED) {
		shared.free[shared.count] = memory + (size_t)(SHARED - 1 - shared.count) * SIZE;
		shared.count++;
	}
	return;
without:
	say("no memory to share with servers on this host: they are reached over sockets alone");
	memory = NULL;
	if (fd >= 0)
		close(fd);
}

bool buffers_offer(struct link *link)
{
	return memory ? link_offer(link, memory_fd, memory, (size_t)SHARED * SIZE) : link_offer(link, -1, NULL, 0);
}

static bool is_shared(const char *buffer)
{
	return memory && buffer >= memory && buffer < memory + (size_t)SHARED * SIZE;
}

char *buffer_take(void)
{
	char *buffer = NULL;
	pthread_mutex_lock(&lock);
	if (shared.count)
		buffer = shared.free[--shared.count];
	else if (own.count)
		buffer = own.free[--own.count];
	pthread_mutex_unlock(&lock);
	return buffer ? buffer : must_alloc(SIZE);
}

void buffer_give(char *buffer)
{
	struct pool *pool = is_shared(buffer) ? &shared : &own;
	pthread_mutex_lock(&lock);
	if (pool == &shared || pool->count < KEPT) {
		pool->free[pool->count++] = buffer;
		buffer = NULL;
	}
	pthread_mutex_unlock(&lock);
	free(buffer);
}
