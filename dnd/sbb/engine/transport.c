#include "transport.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_BUFFER (4 << 20)
#define GREETING 10 /* seconds that it may take */

static void tune(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on unix sockets: no harm */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

/* The kernel keeps as much for a peer, and counts it as memory of this process: not for a stranger. */
static void widen(int fd)
{
	int size = SOCKET_BUFFER;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

static bool unix_address(const char *path, struct sockaddr_un *address)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof address->sun_path) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(address->sun_path, path);
	return true;
}

static struct addrinfo *internet_address(const char *address, bool passive)
{
	char host[256];
	const char *colon = strrchr(address, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
	struct addrinfo *found = NULL;
	if (!colon || (size_t)(colon - address) >= sizeof host) {
		errno = EINVAL;
		return NULL;
	}
	size_t length = (size_t)(colon - address);
	if (length > 1 && *address == '[' && address[length - 1] == ']')
		address++, length -= 2;
	memcpy(host, address, length);
	host[length] = 0;
	if (getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found)) {
		errno = EADDRNOTAVAIL;
		return NULL;
	}
	return found;
}

static int connect_within(int fd, const struct sockaddr *address, socklen_t size, int seconds)
{
	if (connect(fd, address, size) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -1;
	struct pollfd wait = {.fd = fd, .events = POLLOUT};
	int error = ETIMEDOUT;
	socklen_t length = sizeof error;
	if (poll(&wait, 1, seconds * 1000) > 0)
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	errno = error;
	return error ? -1 : 0;
}

/* NULL and errno when there is no memory; then fd is closed. */
static struct link *new_link(int fd)
{
	struct link *link = calloc(1, sizeof *link);
	struct sockaddr_storage own = {0};
	socklen_t size = sizeof own;
	if (!link) {
		close(fd);
		errno = ENOMEM;
		return NULL;
	}
	link->fd = fd;
	link->local = getsockname(fd, (struct sockaddr *)&own, &size) == 0 && own.ss_family == AF_UNIX;
	return link;
}

struct link *link_connect(const char *address, int seconds)
{
	struct sockaddr_un local;
	struct addrinfo *found = NULL;
	const struct sockaddr *to = (struct sockaddr *)&local;
	socklen_t size = sizeof local;
	if (strncmp(address, "unix:", 5) == 0) {
		if (!unix_address(address + 5, &local))
			return NULL;
	} else {
		found = internet_address(address, false);
		if (!found)
			return NULL;
		to = found->ai_addr;
		size = found->ai_addrlen;
	}
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0) {
		tune(fd);
		widen(fd);
	}
	if (fd >= 0 && connect_within(fd, to, size, seconds)) {
		int error = errno;
		close(fd);
		fd = -1;
		errno = error;
	}
	if (found)
		freeaddrinfo(found);
	if (fd < 0)
		return NULL;
	int off = 0;
	if (ioctl(fd, FIONBIO, &off) < 0) {
		close(fd);
		return NULL;
	}
	return new_link(fd);
}

int link_listen(const char *address, int *port)
{
	struct sockaddr_un local;
	struct addrinfo *found = NULL;
	const struct sockaddr *at = (struct sockaddr *)&local;
	socklen_t size = sizeof local;
	bool is_unix = strncmp(address, "unix:", 5) == 0;
	int one = 1;
	if (is_unix) {
		if (!unix_address(address + 5, &local))
			die("%s: %s", address, strerror(errno));
		unlink(local.sun_path);
	} else {
		found = internet_address(address, true);
		if (!found)
			die("%s: no address host:port", address);
		at = found->ai_addr;
		size = found->ai_addrlen;
	}
	int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("%s: %s", address, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	mode_t before = umask(0177); /* a unix socket is its owner's from the first moment */
	if (bind(fd, at, size) || listen(fd, 1024))
		die("cannot listen on %s: %s", address, strerror(errno));
	umask(before);
	if (port) {
		struct sockaddr_storage taken;
		size = sizeof taken;
		getsockname(fd, (struct sockaddr *)&taken, &size);
		*port = ntohs(taken.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&taken)->sin6_port
							  : ((struct sockaddr_in *)&taken)->sin_port);
	}
	if (found)
		freeaddrinfo(found);
	return fd;
}

struct link *link_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return NULL;
	tune(fd);
	return new_link(fd);
}

static size_t skip(struct iovec **parts, int *count, size_t done)
{
	size_t all = done;
	while (*count && done >= (*parts)->iov_len) {
		done -= (*parts)->iov_len;
		(*parts)++, (*count)--;
	}
	if (*count) {
		(*parts)->iov_base = (char *)(*parts)->iov_base + done;
		(*parts)->iov_len -= done;
	}
	return all;
}

static void set_timeout(struct link *link, int64_t microseconds)
{
	struct timeval time = {.tv_sec = microseconds / 1000000, .tv_usec = microseconds % 1000000};
	setsockopt(link->fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
	setsockopt(link->fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

void link_within(struct link *link, int seconds)
{
	link->deadline = seconds ? monotonic_ns() + seconds * 1000000000ll : 0;
	if (!seconds)
		set_timeout(link, 0);
}

/*
 * Before each call that may wait: it has what is left of the time. A bound for each call alone would be none, for it begins anew
 * with each byte that comes.
 */
static bool in_time(struct link *link)
{
	if (!link->deadline)
		return true;
	int64_t left = link->deadline - monotonic_ns();
	if (left <= 0)
		return false;
	set_timeout(link, left / 1000 + 1);
	return true;
}

bool link_send(struct link *link, struct iovec *parts, int count)
{
	skip(&parts, &count, 0);
	while (count && in_time(link)) {
		struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
		ssize_t sent = sendmsg(link->fd, &message, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		skip(&parts, &count, (size_t)sent);
	}
	return !count;
}

bool link_has_room(struct link *link)
{
	struct pollfd wait = {.fd = link->fd, .events = POLLOUT};
	return poll(&wait, 1, 0) > 0;
}

bool link_send_now(struct link *link, const void *data, size_t size)
{
	if (send(link->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size)
		return true;
	link_break(link);
	return false;
}

size_t link_receive_some(struct link *link, struct iovec *parts, int count)
{
	size_t have = 0;
	skip(&parts, &count, 0);
	while (count && in_time(link)) {
		struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
		ssize_t got = recvmsg(link->fd, &message, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		have += skip(&parts, &count, (size_t)got);
	}
	return have;
}

bool link_receive(struct link *link, struct iovec *parts, int count)
{
	size_t want = 0;
	for (int i = 0; i < count; i++)
		want += parts[i].iov_len;
	return link_receive_some(link, parts, count) == want;
}

void link_break(struct link *link)
{
	shutdown(link->fd, SHUT_RDWR);
}

void link_close(struct link *link)
{
	if (!link)
		return;
	if (link->mapped)
		munmap(link->memory, link->memory_size);
	close(link->fd);
	free(link);
}

static bool send_one(struct link *link, const void *data, size_t size)
{
	struct iovec part = {(void *)data, size};
	return link_send(link, &part, 1);
}

static bool receive_one(struct link *link, void *data, size_t size)
{
	struct iovec part = {data, size};
	return link_receive(link, &part, 1);
}

#define MOST_SHARED (1u << 30)

union one_descriptor {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(int))];
};

bool link_offer(struct link *link, int fd, char *memory, size_t size)
{
	union one_descriptor control = {0};
	char byte = 0;
	int32_t refused;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
		control.header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
	}
	link_within(link, GREETING);
	if (!in_time(link) || sendmsg(link->fd, &message, MSG_NOSIGNAL) != 1 ||
	    !receive_one(link, &refused, sizeof refused))
		return false;
	link_within(link, 0);
	if (fd >= 0 && !refused) {
		link->memory = memory;
		link->memory_size = size;
	}
	return true;
}

/* 0 or errno. */
static int map_offer(struct link *link, int fd)
{
	struct stat now;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &now) || now.st_size <= 0 || now.st_size > MOST_SHARED)
		return EINVAL;
	void *memory = mmap(NULL, (size_t)now.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return errno;
	link->memory = memory;
	link->memory_size = (size_t)now.st_size;
	link->mapped = true;
	return 0;
}

bool link_take_offer(struct link *link)
{
	union one_descriptor control = {0};
	char byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof control};
	int32_t refused = ENOENT;
	int fd = -1;
	link_within(link, GREETING);
	if (!in_time(link) || recvmsg(link->fd, &message, MSG_CMSG_CLOEXEC) != 1)
		return false;
	const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
	    header->cmsg_len == CMSG_LEN(sizeof fd)) {
		memcpy(&fd, CMSG_DATA(header), sizeof fd);
		refused = map_offer(link, fd);
		close(fd);
	}
	bool sent = send_one(link, &refused, sizeof refused);
	link_within(link, 0);
	return sent;
}

bool link_place(const struct link *link, const char *bytes, size_t size, uint32_t *place)
{
	if (!link->memory || bytes < link->memory || bytes + size > link->memory + link->memory_size)
		return false;
	*place = (uint32_t)(bytes - link->memory);
	return true;
}

char *link_at(const struct link *link, uint32_t place, size_t size)
{
	if (!link->memory || size > link->memory_size || place > link->memory_size - size)
		return NULL;
	return link->memory + place;
}

/* false: there is no memory for it. */
static bool prove(const unsigned char key[KEY_SIZE], const char *side, const struct hello *hello,
		  const unsigned char nonce[32], unsigned char proof[32])
{
	unsigned char text[8 + sizeof *hello + 32] = {0};
	unsigned int length = 32;
	strncpy((char *)text, side, 8);
	memcpy(text + 8, hello, sizeof *hello);
	memcpy(text + 8 + sizeof *hello, nonce, 32);
	return HMAC(EVP_sha256(), key, KEY_SIZE, text, sizeof text, proof, &length);
}

static bool job_key(const unsigned char buffer_key[KEY_SIZE], const struct hello *hello, unsigned char key[KEY_SIZE])
{
	char text[80];
	unsigned int length = KEY_SIZE;
	int size = snprintf(text, sizeof text, "sbb-job %llu %llu", (unsigned long long)hello->job,
			    (unsigned long long)hello->expires);
	return HMAC(EVP_sha256(), buffer_key, KEY_SIZE, (unsigned char *)text, (size_t)size, key, &length);
}

int greet_server(struct link *link, struct hello *hello, const unsigned char key[KEY_SIZE], struct welcome *welcome)
{
	struct challenge challenge;
	struct proof answer;
	unsigned char expected[32];
	memcpy(hello->magic, PROTOCOL_MAGIC, 4);
	random_bytes(hello->nonce, sizeof hello->nonce);
	link_within(link, GREETING);
	if (!send_one(link, hello, sizeof *hello) || !receive_one(link, &challenge, sizeof challenge))
		return ECONNRESET;
	if (!prove(key, "server", hello, challenge.nonce, expected) ||
	    !prove(key, "client", hello, challenge.nonce, answer.proof))
		return ENOMEM;
	if (CRYPTO_memcmp(expected, challenge.proof, 32))
		return EACCES;
	link_within(link, GREETING); /* it may have to tell others first that there is one more */
	if (!send_one(link, &answer, sizeof answer) || !receive_one(link, welcome, sizeof *welcome))
		return ECONNRESET;
	link_within(link, 0);
	return welcome->error;
}

static int why_broken(const struct link *link)
{
	return monotonic_ns() >= link->deadline ? ETIMEDOUT : ECONNRESET;
}

int greet_client(struct link *link, const unsigned char buffer_key[KEY_SIZE], struct hello *hello,
		 struct welcome *welcome, int (*check)(void *argument), void *argument)
{
	struct challenge challenge;
	struct proof answer;
	unsigned char key[KEY_SIZE], expected[32];
	link_within(link, GREETING);
	if (!receive_one(link, hello, sizeof *hello))
		return why_broken(link);
	random_bytes(challenge.nonce, sizeof challenge.nonce);
	if (!job_key(buffer_key, hello, key) || !prove(key, "server", hello, challenge.nonce, challenge.proof) ||
	    !prove(key, "client", hello, challenge.nonce, expected))
		return ENOMEM;
	if (!send_one(link, &challenge, sizeof challenge) || !receive_one(link, &answer, sizeof answer))
		return why_broken(link);
	hello->sid[sizeof hello->sid - 1] = 0;
	if (CRYPTO_memcmp(expected, answer.proof, 32))
		welcome->error = EACCES;
	else if (memcmp(hello->magic, PROTOCOL_MAGIC, 4))
		welcome->error = EPROTO;
	else
		welcome->error = check(argument);
	if (!welcome->error)
		widen(link->fd);
	link_within(link, GREETING); /* what `check` waited for is not the client's fault */
	if (!link->local || !(hello->kind & KIND_MAY_SHARE))
		welcome->stored &= ~(uint32_t)WELCOME_SHARES;
	if (!send_one(link, welcome, sizeof *welcome))
		return why_broken(link);
	link_within(link, 0);
	return welcome->error;
}
