/* Connections of clients: a thread each, which works on one request after the other. */
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NEWS 120000000000 /* ns; network file systems keep attributes for a minute at most */
#define PAYLOAD_ROOM (MAX_PAYLOAD + 2) /* two texts end within it */
#define STRANGERS 64 /* connections at a door that have not proven themselves: each has a thread and 40 KiB */
#define GRACE 100000000 /* ns that each of them has, so that hundreds of honest ones at once do not push each other out */

/* Where connections come in. Each has its own strangers: those who come over TCP do not push out the owner's on this host. */
struct door {
	int listener;
	pthread_mutex_t lock;
	pthread_cond_t fewer;
	struct session *oldest, *newest; /* strangers, as they came */
	uint32_t strangers;
};

struct session {
	struct link *link;
	struct door *door;
	bool stranger; /* it is in the door's list: it has not proven itself */
	struct session *before, *after; /* there */
	int64_t came;                   /* monotonic */
	bool joining; /* it was let in and counts in S.joining */
	struct client *client;
	struct hello hello;
	char *payload; /* for small payloads */
	char *shared;  /* where the client's bytes are, or those of the answer shall go; NULL: they come over the link */
	struct file_key {
		uint32_t target;
		uint64_t ino;
	} *opens;
	uint32_t open_count, open_room;
};

struct question { /* to one client: empty your caches of a file */
	struct question *next;
	struct client *client;
	uint64_t id;
};
static struct question *questions;
static uint64_t question_id;
#define PLACES 64 /* that a file remembers to have handed out */

static bool answer(struct session *session, struct message *message, struct iovec *parts, int count)
{
	struct iovec all[MAX_PARTS + 1];
	message->length = 0;
	all[0] = (struct iovec){message, sizeof *message};
	if (count && session->shared) {
		char *into = session->shared;
		for (int i = 0; i < count; into += parts[i].iov_len, i++)
			memcpy(into, parts[i].iov_base, parts[i].iov_len);
		message->flags |= FLAG_SHARED;
		return link_send(session->link, all, 1);
	}
	for (int i = 0; i < count; i++) {
		all[i + 1] = parts[i];
		message->length += (uint32_t)parts[i].iov_len;
	}
	return link_send(session->link, all, count + 1);
}

/* The client has read what the target has: what is stored goes over it. */
static bool do_read_over(struct session *session, struct message *message)
{
	struct iovec part = {session->payload, message->size};
	pthread_mutex_lock(&S.lock);
	struct file *file = file_get(message->target, message->ino);
	file->users++;
	uint64_t drains = file->drains;
	if (has_store())
		message->error = store_read(file, message->offset, (uint32_t)message->size, session->payload);
	else
		file_read_over(file, message->offset, (uint32_t)message->size, session->payload);
	if (file->drains != drains)
		message->error = ESTALE; /* the target may have more than the client saw */
	message->flags = FLAG_EDGE;
	file_put(file);
	pthread_mutex_unlock(&S.lock);
	return answer(session, message, &part, message->error ? 0 : 1);
}

static bool do_read(struct session *session, struct message *message)
{
	struct iovec parts[MAX_PARTS];
	struct block *pinned[MAX_PARTS];
	int count = 0;
	if (message->size == 0 || message->size > MAX_PAYLOAD) {
		message->error = EINVAL;
		return answer(session, message, NULL, 0);
	}
	pthread_mutex_lock(&S.lock);
	struct file *file = file_get(message->target, message->ino);
	file->users++;
	if (!file->buffered && message->version > file->version) {
		if (file->version && file->chunk_count)
			file_cut(file, 0, true);
		if (file->version)
			file_changed(file);
		file->version = message->version;
	}
	message->error = file_read(file, message->offset, (uint32_t)message->size, pinned, parts, &count);
	uint64_t end = message->offset + message->size;
	message->flags = end > file->known && end > file->end ? FLAG_EDGE : 0;
	pthread_mutex_unlock(&S.lock);
	bool sent = answer(session, message, parts, count);
	pthread_mutex_lock(&S.lock);
	for (int i = 0; i < count; i++)
		block_unpin(pinned[i]);
	file_put(file);
	pthread_mutex_unlock(&S.lock);
	return sent;
}

/* Pins the blocks that a write of `size` bytes goes to. */
static int pin_for_write(struct file *file, uint64_t offset, uint32_t size, struct block **pinned, struct iovec *parts)
{
	int count = 0;
	memory_gate(true);
	for (uint64_t end = offset + size; offset < end; count++) {
		uint32_t from = (uint32_t)(offset % BLOCK);
		uint32_t to = end - offset < BLOCK - from ? from + (uint32_t)(end - offset) : BLOCK;
		pinned[count] = block_pin(file, offset / BLOCK, to);
		parts[count] = (struct iovec){pinned[count]->memory + from, to - from};
		offset += to - from;
	}
	memory_gate(false);
	return count;
}

/* While bytes come into a block, nobody fills the same place from below. */
static void receiving(struct block **pinned, const struct iovec *parts, int count, bool begins)
{
	for (int i = 0; i < count; i++) {
		uint32_t from = (uint32_t)((char *)parts[i].iov_base - pinned[i]->memory);
		if (begins) {
			pinned[i]->receiving++;
			ranges_add(&pinned[i]->coming, from, from + (uint32_t)parts[i].iov_len);
		} else if (--pinned[i]->receiving == 0) {
			ranges_clear(&pinned[i]->coming);
		}
	}
	if (!begins)
		pthread_cond_broadcast(&S.changed);
}

/* The store could not take them: the blocks do not have them either, but what was there before. */
static void not_valid(struct block **pinned, const struct iovec *parts, int count)
{
	for (int i = 0; i < count; i++) {
		uint32_t from = (uint32_t)((char *)parts[i].iov_base - pinned[i]->memory);
		ranges_remove(&pinned[i]->valid, from, from + (uint32_t)parts[i].iov_len);
	}
}

/* `size` bytes have come into the blocks. */
static void now_dirty(struct file *file, uint64_t offset, uint64_t size, int64_t mtime)
{
	uint64_t fresh = 0;
	for (uint64_t at = offset, end = offset + size; at < end;) {
		uint32_t from = (uint32_t)(at % BLOCK);
		uint32_t to = end - at < BLOCK - from ? from + (uint32_t)(end - at) : BLOCK;
		struct block *block = block_find(file, at / BLOCK);
		ranges_add(&block->valid, from, to);
		if (!has_store()) {
			fresh += ranges_add(&block->dirty, from, to);
			block_touch(block);
		}
		at += to - from;
	}
	if (!has_store())
		file_dirtied(file, fresh, offset + size, mtime);
}

static bool skip_payload(struct session *session, uint32_t size)
{
	struct iovec part = {session->payload, size};
	return link_receive(session->link, &part, 1);
}

/* What comes of a WRITE; fewer bytes than all when the link breaks. */
static size_t take_bytes(struct session *session, struct iovec *parts, int count)
{
	size_t done = 0;
	if (!session->shared)
		return link_receive_some(session->link, parts, count);
	for (int i = 0; i < count; done += parts[i].iov_len, i++)
		copy_out(parts[i].iov_base, session->shared + done, parts[i].iov_len);
	return done;
}

static bool do_write(struct session *session, struct message *message)
{
	struct iovec parts[MAX_PARTS], vectors[MAX_PARTS];
	struct block *pinned[MAX_PARTS];
	uint32_t size = session->shared ? (uint32_t)message->size : message->length;
	if (size == 0 || message->offset + size < size) {
		message->error = EINVAL;
		return skip_payload(session, message->length) && answer(session, message, NULL, 0);
	}
	pthread_mutex_lock(&S.lock);
	if (S.state != RUNNING) {
		pthread_mutex_unlock(&S.lock);
		message->error = EROFS;
		return skip_payload(session, message->length) && answer(session, message, NULL, 0);
	}
	struct file *file = file_get(message->target, message->ino);
	file->users++;
	int count = pin_for_write(file, message->offset, size, pinned, parts);
	memcpy(vectors, parts, (size_t)count * sizeof *parts);
	file->writers++;
	file->changes++;
	receiving(pinned, parts, count, true);
	pthread_mutex_unlock(&S.lock);
	size_t have = take_bytes(session, vectors, count);
	pthread_mutex_lock(&S.lock);
	/* A client that died in the midst of it: what came has already overwritten what was there. */
	receiving(pinned, parts, count, false);
	if (have)
		now_dirty(file, message->offset, have, message->mtime);
	if (have && has_store())
		message->error = store_write(file, message->offset, parts, count, (uint32_t)have, message->mtime);
	if (message->error)
		not_valid(pinned, parts, count);
	for (int i = 0; i < count; i++) {
		if (!pinned[i]->valid.count && pinned[i]->pins == 1 && !has_store() && have < size) {
			pinned[i]->pins = 0;
			block_free(pinned[i]);
		} else {
			block_unpin(pinned[i]);
		}
	}
	file->writers--;
	file_put(file);
	pthread_mutex_unlock(&S.lock);
	return have == size && answer(session, message, NULL, 0);
}

/* Once a session, however often it says so: what a broken connection did not answer is said again. */
static void add_opener(struct session *session, struct file *file)
{
	for (uint32_t i = 0; i < file->opener_count; i++)
		if (file->openers[i] == session)
			return;
	if (file->opener_count == file->opener_room) {
		file->opener_room = file->opener_room ? file->opener_room * 2 : 2;
		file->openers = must_realloc(file->openers, file->opener_room * sizeof(struct session *));
	}
	file->openers[file->opener_count++] = session;
	if (session->open_count == session->open_room) {
		session->open_room = session->open_room ? session->open_room * 2 : 16;
		session->opens = must_realloc(session->opens, session->open_room * sizeof *session->opens);
	}
	session->opens[session->open_count++] = (struct file_key){file->target, file->ino};
}

static void remove_opener(struct session *session, struct file *file)
{
	for (uint32_t i = 0; i < file->opener_count; i++)
		if (file->openers[i] == session) {
			file->openers[i] = file->openers[--file->opener_count];
			break;
		}
	for (uint32_t i = session->open_count; i-- > 0;)
		if (session->opens[i].ino == file->ino && session->opens[i].target == file->target) {
			session->opens[i] = session->opens[--session->open_count];
			return;
		}
}

/* file NULL: that it is alone (flag), or is not any more. */
static void ask(struct client *client, const struct file *file, uint16_t flags)
{
	struct question *question = must_alloc(sizeof *question);
	struct message message = {.op = OP_INVALIDATE, .id = ++question_id, .flags = flags};
	if (file) {
		message.target = file->target;
		message.ino = file->ino;
	}
	*question = (struct question){questions, client, question_id};
	questions = question;
	pthread_mutex_lock(&client->send);
	if (client->callback)
		link_send_now(client->callback, &message, sizeof message);
	pthread_mutex_unlock(&client->send);
}

static void answered(struct client *client, uint64_t id)
{
	for (struct question **at = &questions; *at;) {
		struct question *question = *at;
		if (question->client == client && (!id || question->id == id)) {
			*at = question->next;
			free(question);
		} else {
			at = &question->next;
		}
	}
	pthread_cond_broadcast(&S.changed);
}

static bool is_open(uint64_t after, uint64_t upto)
{
	for (const struct question *question = questions; question; question = question->next)
		if (question->id > after && question->id <= upto)
			return true;
	return false;
}

/* A client that hears nothing: when it connects again, it empties all its caches. Until then nobody waits for it. */
static void give_up(uint64_t after, uint64_t upto)
{
	for (const struct question *question = questions; question; question = question->next)
		if (question->id > after && question->id <= upto && question->client->callback)
			link_break(question->client->callback);
	for (struct question **at = &questions; *at;) {
		struct question *question = *at;
		if (question->id > after && question->id <= upto) {
			*at = question->next;
			free(question);
		} else {
			at = &question->next;
		}
	}
}

/* Waits until all that was asked after `before` is answered, or too late. */
static void wait_for_answers(uint64_t before)
{
	uint64_t upto = question_id;
	int64_t deadline = now_ns() + 10000000000;
	struct timespec until = {deadline / 1000000000, deadline % 1000000000};
	while (upto > before && is_open(before, upto))
		if (pthread_cond_timedwait(&S.changed, &S.lock, &until) == ETIMEDOUT) {
			say_seldom("a client did not empty its caches in time");
			give_up(before, upto);
			break;
		}
}

/* Others who have the file open must not read from their caches what was there before. */
static void tell_others(struct session *session, struct file *file)
{
	uint64_t before = question_id;
	for (uint32_t i = 0; i < file->opener_count; i++) {
		struct client *other = file->openers[i]->client;
		if (other != session->client && other->callback)
			ask(other, file, 0);
	}
	wait_for_answers(before);
}

static int flush_file(struct session *session, const struct message *message, struct file *file)
{
	int error = 0;
	if (file->buffered && message->mtime > file->mtime)
		file->mtime = message->mtime;
	if (message->flags & FLAG_TARGET || (message->flags & FLAG_DURABLE && S.sync_target))
		error = drain_wait(file);
	else if (message->flags & FLAG_DURABLE && has_store())
		error = store_sync(file);
	if (home_of(message->ino, S.count) == S.index)
		tell_others(session, file);
	return error;
}

static void reserve(struct file *file, struct message *message)
{
	uint64_t at = message->offset;
	if (!file->places)
		file->places = must_alloc(PLACES * sizeof *file->places);
	for (uint32_t i = 0; i < PLACES; i++)
		if (message->version && file->places[i].mark == message->version) {
			message->offset = file->places[i].offset;
			return;
		}
	if (file->end > at)
		at = file->end;
	if (file->append_end > at)
		at = file->append_end;
	file->append_end = at + message->size;
	file->places[file->place_count++ % PLACES] = (struct handed){message->version, at};
	message->offset = at;
}

static void on_file(struct session *session, struct message *message)
{
	bool wants_file = message->op != OP_GETATTR && message->op != OP_TRUNCATE && message->op != OP_FLUSH &&
			  message->op != OP_SETTIME && message->op != OP_DROP && message->op != OP_CLOSE;
	struct file *file = wants_file ? file_get(message->target, message->ino)
				       : file_find(message->target, message->ino);
	message->flags &= FLAG_AFTER | FLAG_DURABLE | FLAG_TARGET;
	if (!file)
		return;
	if (message->op == OP_OPEN)
		file = file_born(message->target, message->ino, (int64_t)message->offset);
	file->users++;
	switch (message->op) {
	case OP_GETATTR:
		if (file->buffered) {
			message->flags |= FLAG_BUFFERED;
			message->size = file->end;
			message->mtime = file->mtime;
		}
		if (monotonic_ns() - file->cleaned_at < NEWS)
			message->version = (uint64_t)file->cleaned;
		break;
	case OP_OPEN:
		add_opener(session, file);
		break;
	case OP_CLOSE:
		remove_opener(session, file);
		break;
	case OP_TRUNCATE:
		message->error = file_cut(file, message->size, message->flags & FLAG_AFTER);
		file->append_end = message->size;
		if (message->flags & FLAG_AFTER)
			file_changed(file);
		if (file->buffered && message->mtime > file->mtime)
			file->mtime = message->mtime;
		if (message->flags & FLAG_AFTER && home_of(file->ino, S.count) == S.index)
			tell_others(session, file);
		break;
	case OP_FLUSH:
		message->error = flush_file(session, message, file);
		break;
	case OP_RESERVE:
		reserve(file, message);
		break;
	case OP_HOLD:
		if (file_open(file, false)) {
			file->held = true;
			file_use_end(file);
		}
		break;
	case OP_UNLINK:
		if (message->flags & FLAG_AFTER) {
			file->orphan = true;
			file->orphaned = monotonic_ns();
			if (has_store())
				store_orphan(file);
		}
		message->flags |= file->opener_count ? FLAG_BUFFERED : FLAG_DROPPABLE;
		break;
	case OP_DROP:
		file_drop(file);
		break;
	case OP_SETTIME:
		while (file->timing)
			pthread_cond_wait(&S.changed, &S.lock);
		file->cleaned = 0;
		if (file->buffered) {
			file->mtime = message->mtime;
			if (has_store())
				store_time(file);
		}
		break;
	}
	file_put(file);
}

static bool work_on(struct session *session, struct message *message)
{
	if (message->length > MAX_PAYLOAD || message->target >= S.target_count)
		return false;
	session->shared = NULL;
	if (message->flags & FLAG_SHARED) {
		session->shared = link_at(session->link, message->place, message->size);
		if (!session->shared || message->size > MAX_PAYLOAD || message->length)
			return false;
		message->flags &= (uint16_t)~FLAG_SHARED;
	}
	message->error = 0;
	if (message->op == OP_WRITE)
		return do_write(session, message);
	if (message->length && !skip_payload(session, message->length))
		return false;
	session->payload[message->length] = session->payload[message->length + 1] = 0;
	if (message->op == OP_READ && message->length && message->length == message->size)
		return do_read_over(session, message);
	if (message->op == OP_READ)
		return do_read(session, message);
	pthread_mutex_lock(&S.lock);
	if (message->op == OP_INVALIDATE)
		answered(session->client, message->id);
	else if (message->op == OP_PATH)
		file_path(message->target, message->ino, session->payload, (int64_t)message->offset);
	else if (message->op == OP_RENAME)
		file_renamed(message->target, message->ino, session->payload,
			     session->payload + strlen(session->payload) + 1);
	else
		on_file(session, message);
	pthread_mutex_unlock(&S.lock);
	if (message->op == OP_INVALIDATE || message->op == OP_PATH)
		return true;
	return answer(session, message, NULL, 0);
}

/* A client that was told that it is the only one hears that it is not, and what its kernel kept is forgotten. */
static void not_alone(uint64_t id)
{
	uint64_t before = question_id;
	if (!S.alone || S.alone == id)
		return;
	for (struct client *client = S.clients; client; client = client->next)
		if (client->id == S.alone)
			ask(client, NULL, 0);
	S.alone = 0;
	wait_for_answers(before);
	pthread_mutex_unlock(&S.lock);
	usleep(ALONE_SECONDS * 1100000);
	pthread_mutex_lock(&S.lock);
}

static void stranger_came(struct session *session)
{
	struct door *door = session->door;
	pthread_mutex_lock(&door->lock);
	session->stranger = true;
	session->came = monotonic_ns();
	session->before = door->newest;
	if (door->newest)
		door->newest->after = session;
	else
		door->oldest = session;
	door->newest = session;
	door->strangers++;
	pthread_mutex_unlock(&door->lock);
}

/* It has proven itself, or it ends; again is harmless. */
static void stranger_left(struct session *session)
{
	struct door *door = session->door;
	pthread_mutex_lock(&door->lock);
	if (session->stranger) {
		session->stranger = false;
		if (session->before)
			session->before->after = session->after;
		else
			door->oldest = session->after;
		if (session->after)
			session->after->before = session->before;
		else
			door->newest = session->before;
		door->strangers--;
		pthread_cond_signal(&door->fewer);
	}
	pthread_mutex_unlock(&door->lock);
}

/* With the door's lock. True: the one that came first has had its time, and ends soon. */
static bool push_out(struct door *door)
{
	bool due = door->oldest && monotonic_ns() >= door->oldest->came + GRACE;
	if (due)
		link_break(door->oldest->link);
	return due;
}

/*
 * Until one more may come. Meanwhile others wait in the kernel's queue. Nobody is locked out by those who hold their places: the
 * oldest one's connection ends, and a client that knows its key needs one round trip to be a stranger no more.
 */
static void make_room(struct door *door)
{
	pthread_mutex_lock(&door->lock);
	while (door->strangers >= STRANGERS) {
		int64_t due = door->oldest->came + GRACE;
		struct timespec until = {due / 1000000000, due % 1000000000};
		if (push_out(door)) {
			say_seldom("%d connections have not proven themselves: the oldest one is closed for the next",
				   STRANGERS);
			pthread_cond_wait(&door->fewer, &door->lock); /* its thread gives its place back */
		} else {
			pthread_cond_timedwait(&door->fewer, &door->lock, &until);
		}
	}
	pthread_mutex_unlock(&door->lock);
}

/* Descriptors, threads or memory are used up: a stranger gives back what it has, and the next one is tried in a moment. */
static void out_of_means(struct door *door, int error)
{
	say_seldom("no connection can be taken: %s", strerror(error));
	pthread_mutex_lock(&door->lock);
	push_out(door);
	pthread_mutex_unlock(&door->lock);
	usleep(10000);
}

static int admit(void *argument)
{
	struct session *session = argument;
	const struct hello *hello = &session->hello;
	stranger_left(session);
	if (strcmp(hello->sid, S.sid) != 0)
		return EPROTO;
	if ((int64_t)hello->expires * 1000000000 <= now_ns())
		return ESTALE;
	if (S.index == 0 && hello->kind == KIND_CALLBACK) {
		pthread_mutex_lock(&S.lock);
		S.joining++;
		not_alone(hello->client);
		pthread_mutex_unlock(&S.lock);
		session->joining = true;
	}
	return 0;
}

static struct client *join(struct session *session)
{
	struct client *client = S.clients;
	while (client && client->id != session->hello.client)
		client = client->next;
	if (!client) {
		client = must_alloc(sizeof *client);
		client->id = session->hello.client;
		pthread_mutex_init(&client->send, NULL);
		client->next = S.clients;
		S.clients = client;
		S.client_count++;
	}
	client->connections++;
	if (session->hello.kind == KIND_CALLBACK) {
		pthread_mutex_lock(&client->send);
		client->callback = session->link;
		pthread_mutex_unlock(&client->send);
	}
	bool alone = session->joining && !--S.joining && S.client_count == 1 && !S.reborn;
	if (alone)
		S.alone = client->id;
	if (session->hello.kind == KIND_CALLBACK) /* it hears from now on what others change, and did not before */
		ask(client, NULL, alone ? FLAG_ALONE : 0);
	return client;
}

static void leave(struct session *session)
{
	struct client *client = session->client;
	while (session->open_count) {
		struct file_key key = session->opens[session->open_count - 1];
		struct file *file = file_find(key.target, key.ino);
		if (file)
			remove_opener(session, file);
		else
			session->open_count--;
		if (file && file->orphan && !file->opener_count)
			file->orphaned = monotonic_ns();
	}
	pthread_mutex_lock(&client->send);
	if (client->callback == session->link)
		client->callback = NULL;
	pthread_mutex_unlock(&client->send);
	answered(client, 0);
	if (--client->connections == 0) {
		struct client **at = &S.clients;
		while (*at != client)
			at = &(*at)->next;
		*at = client->next;
		S.client_count--;
		if (S.alone == client->id)
			S.alone = 0;
		pthread_mutex_destroy(&client->send);
		free(client);
	}
}

/*
 * Room for the largest payload; false: there is none. Most connections touch a page of it, and there may be thousands: calloc
 * would take memory that was used before, and fill all of it, so that clients which come again would cost a MiB each.
 */
static bool take_payload(struct session *session)
{
	char *memory = mmap(NULL, PAYLOAD_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	madvise(memory, PAYLOAD_ROOM, MADV_NOHUGEPAGE);
	session->payload = memory;
	return true;
}

static void end(struct session *session)
{
	stranger_left(session);
	link_close(session->link);
	if (session->payload)
		munmap(session->payload, PAYLOAD_ROOM);
	free(session->opens);
	free(session);
}

static void *serve(void *argument)
{
	struct session *session = argument;
	struct welcome welcome = {.index = S.index, .count = S.count, .epoch = S.epoch, .stripe = S.stripe,
				  .stored = (has_store() ? WELCOME_STORED : 0) | WELCOME_SHARES};
	struct message message;
	int error = greet_client(session->link, S.key, &session->hello, &welcome, admit, session);
	if (!error && welcome.stored & WELCOME_SHARES && !link_take_offer(session->link))
		error = ECONNRESET;
	if (!error && !take_payload(session))
		error = ENOMEM;
	if (error) {
		say_seldom("a connection was refused: %s", strerror(error));
		pthread_mutex_lock(&S.lock);
		S.joining -= session->joining;
		pthread_mutex_unlock(&S.lock);
	} else {
		pthread_mutex_lock(&S.lock);
		session->client = join(session);
		pthread_mutex_unlock(&S.lock);
		for (;;) {
			struct iovec part = {&message, sizeof message};
			if (!link_receive(session->link, &part, 1) || !work_on(session, &message))
				break;
		}
		pthread_mutex_lock(&S.lock);
		leave(session);
		pthread_mutex_unlock(&S.lock);
	}
	end(session);
	return NULL;
}

/* 0 or an errno. */
static int let_in(struct door *door, const pthread_attr_t *attributes)
{
	pthread_t thread;
	struct link *link = link_accept(door->listener);
	if (!link)
		return errno;
	struct session *session = calloc(1, sizeof *session);
	if (!session) {
		link_close(link);
		return ENOMEM;
	}
	session->link = link;
	session->door = door;
	make_room(door);
	stranger_came(session);
	int error = pthread_create(&thread, attributes, serve, session);
	if (error)
		end(session);
	return error;
}

static void *accept_all(void *argument)
{
	struct door *door = argument;
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, 256 << 10);
	for (;;) {
		int error = let_in(door, &attributes);
		if (error)
			out_of_means(door, error);
	}
	return NULL;
}

static void open_door(const char *address, int *port)
{
	struct door *door = must_alloc(sizeof *door);
	pthread_condattr_t attributes;
	pthread_t thread;
	door->listener = link_listen(address, port);
	pthread_mutex_init(&door->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&door->fewer, &attributes);
	if (pthread_create(&thread, NULL, accept_all, door))
		die("no thread");
}

void sessions_start(void)
{
	if (S.listen)
		open_door(S.listen, &S.port);
	if (S.unix_path) {
		char address[200];
		snprintf(address, sizeof address, "unix:%s", S.unix_path);
		open_door(address, NULL);
	}
}
