/*
 * The one place that knows what carries bytes: TCP or unix sockets. Another transport (RDMA) gives these functions.
 * Addresses: "unix:/path" or "host:port".
 */
#ifndef SBB_TRANSPORT_H
#define SBB_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common.h"
#include "protocol.h"

struct link {
	int fd;
	bool local;
	int64_t deadline; /* monotonic: what is sent and received must be done by then; 0: whenever */
	char *memory; /* the client's, that both ends have mapped; NULL: none */
	size_t memory_size;
	bool mapped; /* by this link */
};

/* NULL and errno if it cannot be reached within `seconds`. */
struct link *link_connect(const char *address, int seconds);
/* A listening descriptor; *port is the port that was taken, if not NULL. Dies with the reason. */
int link_listen(const char *address, int *port);
struct link *link_accept(int listener); /* NULL and errno */

/* All or nothing: false when the link is broken. They change the vectors. */
bool link_send(struct link *link, struct iovec *parts, int count);
bool link_has_room(struct link *link); /* less than 64 KiB can be sent now without waiting */
bool link_send_now(struct link *link, const void *data, size_t size); /* never waits: a peer that reads nothing is broken */
bool link_receive(struct link *link, struct iovec *parts, int count);
/* As many bytes as arrived, up to all; for who must know how far a broken link came. */
size_t link_receive_some(struct link *link, struct iovec *parts, int count);

/*
 * Ends on one host share the client's memory: so bytes need not go through the link. Both calls follow the greeting. The
 * client offers (fd < 0: nothing after all), the server takes, or says that it cannot: then all is as without it. false when
 * the link is broken. Memory that could be cut short is not taken.
 */
bool link_offer(struct link *link, int fd, char *memory, size_t size);
bool link_take_offer(struct link *link);
/* Client: where in it `size` bytes are. Server: where they are that the client means, or NULL if it has no such place. */
bool link_place(const struct link *link, const char *bytes, size_t size, uint32_t *place);
char *link_at(const struct link *link, uint32_t place, size_t size);

/* All that is sent and received from now on must be done within `seconds`, together; 0: no bound any more. */
void link_within(struct link *link, int seconds);
void link_break(struct link *link); /* wakes whoever waits on it; the link stays to be closed */
void link_close(struct link *link);

/* Both sides prove that they know the job's key; nothing of the key goes over the wire. 0 or an errno. */
int greet_server(struct link *link, struct hello *hello, const unsigned char key[KEY_SIZE], struct welcome *welcome);
/* `check` is called with `argument` when the client has proven itself, may wait, and says whether it may come in. */
int greet_client(struct link *link, const unsigned char buffer_key[KEY_SIZE], struct hello *hello,
		 struct welcome *welcome, int (*check)(void *argument), void *argument);

#endif
