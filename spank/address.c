/* Whether this node is a datanode. In C, for Python's socket module costs a job's first step more than its mount. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A socket can be bound to an address of this node's only. */
static int is_local(const struct addrinfo *address)
{
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), result;

	if (fd < 0)
		return 0;
	result = bind(fd, address->ai_addr, address->ai_addrlen);
	close(fd);
	return result == 0;
}

/* See ebb_spank.h. The kernel's NFS client wants numbers, datanodes.conf may have names. */
int ebb_address_look_up(const char *name, char *numeric, size_t size)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	int result = -1;

	if (getaddrinfo(name, NULL, &hints, &found) != 0)
		return -1;
	if (getnameinfo(found->ai_addr, found->ai_addrlen, numeric, (socklen_t)size, NULL, 0, NI_NUMERICHOST) == 0)
		result = is_local(found);
	freeaddrinfo(found);
	return result;
}
