/*
 * The client's side of the connections. Each has a queue of requests in their order; the thread that puts one there sends what
 * is in the queue, unless another thread is at it. A thread a connection receives the answers, and connects again after a
 * break: then all that was not answered is sent once more, which is harmless, for every request may be done twice.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW (32u << 20) /* bytes that may be written behind */
#define GATHER (256u << 10) /* small writes one after the other become one of up to this size */
#define STEAL (128u << 10) /* from this size on a buffer is taken as it is, not copied */

struct list {
	struct request *first, **end;
};

struct connection {
	uint32_t server, number;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct link *link;
	struct list queue, flying;
	bool up, sending, dead;
	struct request *current; /* is just being sent: it stays where it is, even if its answer is here already */
	bool waits; /* small writes wait for more */
	uint64_t next_id;
	pthread_t thread;
};

static struct connection connections[MAX_SERVERS][CONNECTIONS];
static struct {
	pthread_mutex_t lock;
	uint64_t epoch;
	bool known, stored;
} servers[MAX_SERVERS];

static pthread_mutex_t window_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t window_open = PTHREAD_COND_INITIALIZER, small_came = PTHREAD_COND_INITIALIZER;
static uint64_t behind;
static bool small_waits;

static void append(struct list *list, struct request *request)
{
	request->next = NULL;
	*list->end = request;
	list->end = &request->next;
}

static struct request *take_first(struct list *list)
{
	struct request *request = list->first;
	if (request && !(list->first = request->next))
		list->end = &list->first;
	return request;
}

static void wrote_one(struct request *request, int error)
{
	struct node *node = request->node;
	uint64_t size = request->payload.iov_len;
	pthread_mutex_lock(&node->lock);
	if (error && !node->error)
		node->error = error;
	if (--node->flying == 0)
		pthread_cond_broadcast(&node->settled);
	pthread_mutex_unlock(&node->lock);
	pthread_mutex_lock(&window_lock);
	behind -= size;
	pthread_cond_broadcast(&window_open);
	pthread_mutex_unlock(&window_lock);
	buffer_give(request->buffer);
	free(request);
}

static void done(struct request *request, int error)
{
	if (!request->wait && !request->node) {
		free(request); /* posted: nobody waits for the answer */
		return;
	}
	if (!request->wait) {
		wrote_one(request, error);
		return;
	}
	struct wait *wait = request->wait;
	request->answer.error = error;
	pthread_mutex_lock(&wait->lock);
	if (--wait->left == 0)
		pthread_cond_signal(&wait->done);
	pthread_mutex_unlock(&wait->lock);
}

/* Where the file is, for a server that may not know it yet. */
static bool send_path(struct connection *connection, const struct node *node)
{
	struct message message = about(node, OP_PATH);
	char *path = node_path(node);
	struct iovec parts[2] = {{&message, sizeof message}, {path, strlen(path)}};
	message.length = (uint32_t)parts[1].iov_len;
	bool sent = link_send(connection->link, parts, 2);
	free(path);
	return sent;
}

/* Says where in the shared memory the bytes of a WRITE are, or those of a READ shall go, if they are there. */
static bool share(const struct link *link, struct request *request)
{
	struct message *message = &request->message;
	const char *bytes = request->payload.iov_base;
	size_t size = request->payload.iov_len;
	if (message->op == OP_READ && !size) {
		bytes = request->into;
		size = request->into_size;
	} else if (message->op != OP_WRITE) {
		return false;
	}
	if (!link_place(link, bytes, size, &message->place))
		return false;
	message->flags |= FLAG_SHARED;
	message->size = size;
	message->length = 0;
	return true;
}

static bool send_request(struct connection *connection, struct request *request)
{
	struct iovec parts[2] = {{&request->message, sizeof request->message}, request->payload};
	struct node *node = request->node;
	uint8_t bit = (uint8_t)(1u << connection->number);
	if (node) {
		pthread_mutex_lock(&node->lock);
		bool known = node->announced[connection->server] & bit;
		node->announced[connection->server] |= bit;
		pthread_mutex_unlock(&node->lock);
		if (!known && !send_path(connection, node))
			return false;
	}
	request->message.length = (uint32_t)request->payload.iov_len;
	request->message.flags &= (uint16_t)~FLAG_SHARED;
	if (share(connection->link, request))
		parts[1].iov_len = 0;
	if (parts[1].iov_len >= LARGE || !link_has_room(connection->link))
		leave_lead(); /* sending may take a while, or wait */
	return link_send(connection->link, parts, 2);
}

/* Sends what is in the queue, unless another thread does. */
static void pump(struct connection *connection)
{
	pthread_mutex_lock(&connection->lock);
	connection->waits = false;
	if (connection->up && !connection->sending) {
		struct request *request;
		connection->sending = true;
		while (connection->up && (request = take_first(&connection->queue))) {
			append(&connection->flying, request);
			request->message.id = ++connection->next_id;
			connection->current = request;
			pthread_mutex_unlock(&connection->lock);
			bool sent = send_request(connection, request);
			if (!sent)
				link_break(connection->link);
			pthread_mutex_lock(&connection->lock);
			connection->current = NULL;
			pthread_cond_broadcast(&connection->changed);
			if (!sent)
				break;
		}
		connection->sending = false;
		pthread_cond_broadcast(&connection->changed);
	}
	pthread_mutex_unlock(&connection->lock);
}

static void enqueue(struct connection *connection, struct request *request)
{
	pthread_mutex_lock(&connection->lock);
	bool dead = connection->dead;
	if (!dead)
		append(&connection->queue, request);
	pthread_mutex_unlock(&connection->lock);
	if (dead)
		done(request, EIO);
}

static bool receive(struct connection *connection)
{
	struct message answer;
	struct iovec part = {&answer, sizeof answer};
	if (!link_receive(connection->link, &part, 1))
		return false;
	if (connection->number == 0) {
		callback_invalidate(&answer);
		part = (struct iovec){&answer, sizeof answer};
		return link_send(connection->link, &part, 1);
	}
	pthread_mutex_lock(&connection->lock);
	struct request *request = connection->flying.first;
	while (request && connection->current == request)
		pthread_cond_wait(&connection->changed, &connection->lock);
	pthread_mutex_unlock(&connection->lock);
	if (!request || request->message.id != answer.id || answer.length > request->into_size) {
		say("server %u answered what was not asked", connection->server);
		return false;
	}
	if (answer.length) {
		part = (struct iovec){request->into, answer.length};
		if (!link_receive(connection->link, &part, 1))
			return false;
	}
	pthread_mutex_lock(&connection->lock);
	take_first(&connection->flying);
	pthread_mutex_unlock(&connection->lock);
	request->answer = answer;
	if (answer.flags & FLAG_SHARED)
		request->answer.length = (uint32_t)answer.size;
	done(request, answer.error);
	return true;
}

static void fail_all(struct connection *connection)
{
	struct request *request;
	pthread_mutex_lock(&connection->lock);
	connection->dead = true;
	while ((request = take_first(&connection->flying)) || (request = take_first(&connection->queue))) {
		pthread_mutex_unlock(&connection->lock);
		done(request, EIO);
		pthread_mutex_lock(&connection->lock);
	}
	pthread_mutex_unlock(&connection->lock);
}

static void unannounce(struct node *node, void *argument)
{
	const struct connection *connection = argument;
	pthread_mutex_lock(&node->lock);
	node->announced[connection->server] &= (uint8_t) ~(1u << connection->number);
	pthread_mutex_unlock(&node->lock);
}

static void lose(struct node *node, void *argument)
{
	const struct connection *connection = argument;
	pthread_mutex_lock(&node->lock);
	if (node->written && node->announced[connection->server] & ~7u)
		node->error = EIO;
	pthread_mutex_unlock(&node->lock);
}

static void say_again(struct connection *connection, struct message message)
{
	struct message answer;
	struct iovec question = {&message, sizeof message}, part = {&answer, sizeof answer};
	if (link_send(connection->link, &question, 1))
		link_receive(connection->link, &part, 1);
}

/* A server that was started again does not know who has what open. */
static void open_again(struct node *node, void *argument)
{
	struct connection *connection = argument;
	struct message unlinked = about(node, OP_UNLINK);
	struct stat now;
	pthread_mutex_lock(&node->lock);
	bool is_open = node->opens;
	pthread_mutex_unlock(&node->lock);
	if (!is_open || node->plain)
		return;
	if (home_of(node->ino, C.count) == connection->server)
		say_again(connection, about(node, OP_OPEN));
	unlinked.flags = FLAG_AFTER;
	if (fstatat(node->fd, "", &now, AT_EMPTY_PATH) == 0 && now.st_nlink == 0)
		say_again(connection, unlinked);
}

static void *forget(void *unused)
{
	(void)unused;
	forget_pages();
	return NULL;
}

/* Not in this thread: a page that is just being read may need an answer that this thread receives. */
static void forget_pages_beside(void)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, forget, NULL) == 0)
		pthread_detach(thread);
}

static int connect_once(struct connection *connection)
{
	struct hello hello = {.client = C.id, .job = C.job, .expires = C.expires};
	struct welcome welcome;
	uint32_t server = connection->server;
	hello.kind = connection->number == 0	 ? KIND_CALLBACK
		     : connection->number < DATA ? KIND_META
						 : KIND_DATA | KIND_MAY_SHARE;
	snprintf(hello.sid, sizeof hello.sid, "%s", C.sid);
	struct link *link = C.local[server] ? link_connect(C.local[server], 5) : NULL;
	if (!link)
		link = link_connect(C.addresses[server], 5);
	if (!link)
		return errno;
	int error = greet_server(link, &hello, C.key, &welcome);
	if (!error && (welcome.index != server || welcome.count != C.count || welcome.stripe != C.stripe))
		error = EPROTO;
	if (!error && welcome.stored & WELCOME_SHARES && !buffers_offer(link))
		error = ECONNRESET;
	if (error) {
		link_close(link);
		return error;
	}
	pthread_mutex_lock(&servers[server].lock);
	bool lost = servers[server].known && servers[server].epoch != welcome.epoch;
	servers[server].known = true;
	servers[server].epoch = welcome.epoch;
	servers[server].stored = welcome.stored & WELCOME_STORED;
	if (lost) { /* with the lock: another connection that is back must not forget before what it had announced */
		say("server %s came back without what it had: programs that wrote get an error", C.addresses[server]);
		nodes_each(lose, connection);
	}
	pthread_mutex_unlock(&servers[server].lock);
	connection->link = link;
	return 0;
}

/* The link is there: from now on requests go over it, first those that the last one did not answer. */
static void resume(struct connection *connection)
{
	nodes_each(unannounce, connection);
	if (connection->number == META) {
		nodes_each(open_again, connection);
		forget_pages_beside();
	}
	pthread_mutex_lock(&connection->lock);
	*connection->flying.end = connection->queue.first;
	if (connection->queue.first)
		connection->flying.end = connection->queue.end;
	connection->queue = connection->flying;
	if (!connection->queue.first)
		connection->queue.end = &connection->queue.first;
	connection->flying = (struct list){NULL, &connection->flying.first};
	connection->up = true;
	connection->dead = false;
	pthread_mutex_unlock(&connection->lock);
	pump(connection);
}

static void reconnect(struct connection *connection)
{
	bool failed = false;
	useconds_t pause = 20000;
	pthread_mutex_lock(&servers[connection->server].lock);
	bool stored = servers[connection->server].stored;
	pthread_mutex_unlock(&servers[connection->server].lock);
	int64_t deadline = monotonic_ns() + (stored ? (int64_t)C.patience : 5) * 1000000000;
	say("the connection to %s broke", C.addresses[connection->server]);
	while (connect_once(connection)) {
		if (!failed && monotonic_ns() > deadline) {
			say("%s does not come back: what is asked of it fails", C.addresses[connection->server]);
			fail_all(connection);
			failed = true;
		}
		usleep(pause);
		if (pause < 1000000)
			pause *= 2;
	}
}

static void *receive_all(void *argument)
{
	struct connection *connection = argument;
	for (;;) {
		resume(connection);
		while (receive(connection))
			;
		if (connection->number == 0) {
			C.broke = true;
			C.alone = false;
		}
		pthread_mutex_lock(&connection->lock);
		connection->up = false;
		link_break(connection->link);
		while (connection->sending)
			pthread_cond_wait(&connection->changed, &connection->lock);
		pthread_mutex_unlock(&connection->lock);
		link_close(connection->link);
		reconnect(connection);
	}
	return NULL;
}

/* Small writes wait a moment for those that follow; not longer. */
static void *send_small(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_mutex_lock(&window_lock);
		while (!small_waits)
			pthread_cond_wait(&small_came, &window_lock);
		pthread_mutex_unlock(&window_lock);
		usleep(1000);
		hurry();
	}
	return NULL;
}

/* A server that is just being started again, or that many want to reach at once, has a few seconds. */
static int connect_first(struct connection *connection)
{
	int64_t deadline = monotonic_ns() + 10000000000;
	int error;
	while ((error = connect_once(connection)) && monotonic_ns() < deadline &&
	       (error == ECONNREFUSED || error == ECONNRESET || error == ECONNABORTED || error == ENOENT ||
		error == ETIMEDOUT))
		usleep(50000);
	return error;
}

void rpc_start(void)
{
	pthread_t thread;
	random_bytes(&C.id, sizeof C.id);
	for (uint32_t s = 0; s < C.count; s++)
		if (C.local[s]) {
			buffers_share();
			break;
		}
	for (uint32_t s = 0; s < C.count; s++)
		pthread_mutex_init(&servers[s].lock, NULL);
	for (uint32_t s = 0; s < C.count; s++)
		for (uint32_t n = 0; n < CONNECTIONS; n++) {
			struct connection *connection = &connections[s][n];
			*connection = (struct connection){.server = s, .number = n};
			pthread_mutex_init(&connection->lock, NULL);
			pthread_cond_init(&connection->changed, NULL);
			connection->queue.end = &connection->queue.first;
			connection->flying.end = &connection->flying.first;
			int error = connect_first(connection);
			if (error)
				die("cannot use server %s: %s", C.addresses[s], strerror(error));
		}
	for (uint32_t s = 0; s < C.count; s++)
		for (uint32_t n = 0; n < CONNECTIONS; n++)
			if (pthread_create(&connections[s][n].thread, NULL, receive_all, &connections[s][n]))
				die("no thread");
	if (pthread_create(&thread, NULL, send_small, NULL))
		die("no thread");
}

void hurry(void)
{
	pthread_mutex_lock(&window_lock);
	small_waits = false;
	pthread_mutex_unlock(&window_lock);
	for (uint32_t s = 0; s < C.count; s++)
		for (uint32_t n = DATA; n < CONNECTIONS; n++)
			pump(&connections[s][n]);
}

static void wait_init(struct wait *wait, uint32_t left)
{
	pthread_mutex_init(&wait->lock, NULL);
	pthread_cond_init(&wait->done, NULL);
	wait->left = left;
}

static void wait_for(struct wait *wait)
{
	leave_lead();
	pthread_mutex_lock(&wait->lock);
	while (wait->left)
		pthread_cond_wait(&wait->done, &wait->lock);
	pthread_mutex_unlock(&wait->lock);
	pthread_mutex_destroy(&wait->lock);
	pthread_cond_destroy(&wait->done);
}

static void prepare(struct request *request, const struct message *message, const void *payload, struct wait *wait)
{
	*request = (struct request){.message = *message, .wait = wait};
	request->payload = (struct iovec){(void *)payload, payload ? message->length : 0};
}

int call(uint32_t server, struct message *message, const void *payload)
{
	struct wait wait;
	struct request request;
	wait_init(&wait, 1);
	prepare(&request, message, payload, &wait);
	enqueue(&connections[server][META], &request);
	pump(&connections[server][META]);
	wait_for(&wait);
	*message = request.answer;
	return request.answer.error;
}

void post(uint32_t server, const struct message *message)
{
	struct request *request = must_alloc(sizeof *request);
	request->message = *message;
	enqueue(&connections[server][META], request);
	pump(&connections[server][META]);
}

int call_all(struct message *message, struct node *node, const void *payload, struct message *answers)
{
	struct request requests[MAX_SERVERS];
	struct wait wait;
	int error = 0;
	wait_init(&wait, C.count);
	uint32_t number = message->op == OP_FLUSH && message->flags ? SLOW : META;
	for (uint32_t i = 0; i < C.count; i++) {
		prepare(&requests[i], message, payload, &wait);
		requests[i].node = node;
		enqueue(&connections[i][number], &requests[i]);
		pump(&connections[i][number]);
	}
	wait_for(&wait);
	for (uint32_t i = 0; i < C.count; i++) {
		if (answers)
			answers[i] = requests[i].answer;
		if (!error)
			error = requests[i].answer.error;
	}
	return error;
}

static struct connection *data_connection(uint64_t ino, uint64_t offset)
{
	uint32_t server = server_of(ino, offset, C.stripe, C.count);
	uint64_t turn = offset / C.stripe / C.count + ino; /* a stripe's requests keep their order */
	return &connections[server][DATA + turn % DATA_CONNECTIONS];
}

void begin(struct request *requests, uint32_t count, struct wait *wait)
{
	wait_init(wait, count);
	for (uint32_t i = 0; i < count; i++) {
		struct connection *connection = data_connection(requests[i].message.ino, requests[i].message.offset);
		requests[i].wait = wait;
		enqueue(connection, &requests[i]);
		pump(connection);
	}
}

int finish(struct request *requests, uint32_t count, struct wait *wait)
{
	wait_for(wait);
	for (uint32_t i = 0; i < count; i++)
		if (requests[i].answer.error)
			return requests[i].answer.error;
	return 0;
}

/* The last write in the queue, if these bytes follow it. */
static bool gather(struct connection *connection, struct node *node, uint64_t offset, const char *bytes, uint32_t size,
		   int64_t mtime)
{
	bool fits = false;
	pthread_mutex_lock(&connection->lock);
	if (connection->queue.first) {
		struct request *last = (struct request *)((char *)connection->queue.end - offsetof(struct request, next));
		struct iovec *payload = &last->payload;
		fits = !last->wait && last->room && last->node == node && last->message.offset + payload->iov_len == offset &&
		       payload->iov_len + size <= last->room && offset % C.stripe != 0;
		if (fits) {
			memcpy((char *)payload->iov_base + payload->iov_len, bytes, size);
			payload->iov_len += size;
			last->message.mtime = mtime;
		}
	}
	pthread_mutex_unlock(&connection->lock);
	return fits;
}

void wait_for_window(uint32_t size)
{
	pthread_mutex_lock(&window_lock);
	while (behind && behind + size > WINDOW) {
		if (small_waits) {
			pthread_mutex_unlock(&window_lock);
			hurry();
			pthread_mutex_lock(&window_lock);
			continue;
		}
		leave_lead();
		pthread_cond_wait(&window_open, &window_lock);
	}
	behind += size;
	pthread_mutex_unlock(&window_lock);
}

static void small_may_wait(void)
{
	pthread_mutex_lock(&window_lock);
	if (!small_waits) {
		small_waits = true;
		pthread_cond_signal(&small_came);
	}
	pthread_mutex_unlock(&window_lock);
}

void write_behind(struct node *node, uint64_t offset, const char *bytes, uint32_t size, int64_t mtime, char **buffer)
{
	struct connection *connection = data_connection(node->ino, offset);
	if (gather(connection, node, offset, bytes, size, mtime))
		return;
	struct request *request = must_alloc(sizeof *request);
	request->message = about(node, OP_WRITE);
	request->message.offset = offset;
	request->message.mtime = mtime;
	request->node = node;
	if (buffer && *buffer && size >= STEAL) {
		request->buffer = *buffer;
		request->payload = (struct iovec){(void *)bytes, size};
		*buffer = NULL;
	} else {
		request->buffer = buffer_take();
		memcpy(request->buffer, bytes, size);
		request->payload = (struct iovec){request->buffer, size};
		request->room = size < GATHER ? GATHER : 0;
	}
	bool small = request->room;
	pthread_mutex_lock(&node->lock);
	node->flying++;
	node_touched(node);
	pthread_mutex_unlock(&node->lock);
	enqueue(connection, request);
	if (small) /* the request itself may be gone already */
		small_may_wait();
}

void settle(struct node *node)
{
	pthread_mutex_lock(&node->lock);
	bool any = node->flying;
	pthread_mutex_unlock(&node->lock);
	if (!any)
		return;
	leave_lead();
	hurry();
	pthread_mutex_lock(&node->lock);
	while (node->flying)
		pthread_cond_wait(&node->settled, &node->lock);
	pthread_mutex_unlock(&node->lock);
}

void rpc_finish(void)
{
	hurry();
	pthread_mutex_lock(&window_lock);
	while (behind)
		pthread_cond_wait(&window_open, &window_lock);
	pthread_mutex_unlock(&window_lock);
}
