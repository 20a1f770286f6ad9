/* The inodes that the kernel knows. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BUCKETS 65536
#define PREFERRED 131072 /* st_blksize at least: Python, for one, makes the buffers of open files as large */

static struct node *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static char root_path[4096];

static struct node **bucket(uint64_t ino)
{
	return &table[(ino * 0x9E3779B97F4A7C15ull >> 40) % BUCKETS];
}

static void node_init(struct node *node, int fd, const struct statx *now)
{
	node->ino = now->stx_ino;
	node->device = makedev(now->stx_dev_major, now->stx_dev_minor);
	if (now->stx_mask & STATX_BTIME)
		node->born = now->stx_btime.tv_sec * 1000000000ll + now->stx_btime.tv_nsec;
	node->fd = fd;
	node->type = now->stx_mode & S_IFMT;
	node->plain = node->device != C.root.device && node != &C.root;
	pthread_mutex_init(&node->lock, NULL);
	pthread_mutex_init(&node->order, NULL);
	pthread_cond_init(&node->settled, NULL);
}

void nodes_start(void)
{
	struct statx now;
	char self[32];
	if (statx(C.target_fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &now))
		die("the target's descriptor: %s", strerror(errno));
	node_init(&C.root, C.target_fd, &now);
	C.root.lookups = 2;
	snprintf(self, sizeof self, "/proc/self/fd/%d", C.target_fd);
	ssize_t length = readlink(self, root_path, sizeof root_path - 1);
	if (length <= 0)
		die("the target's path: %s", strerror(errno));
	if (strcmp(root_path, "/") == 0)
		*root_path = 0;
}

/* Pinned by this thread's request. A request has at most four nodes, and some of them twice. */
static _Thread_local struct node *pinned[16];
static _Thread_local uint32_t pinned_count;
static uint64_t open_count;

static bool is_same(int fd, const struct node *node)
{
	struct statx now;
	return statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &now) == 0 && now.stx_ino == node->ino &&
	       (!node->born || !(now.stx_mask & STATX_BTIME) ||
		node->born == now.stx_btime.tv_sec * 1000000000ll + now.stx_btime.tv_nsec);
}

/* Closes descriptors of nodes that nobody uses now, if there are many. With the table's lock. */
static void make_room(void)
{
	static size_t hand;
	if (open_count <= C.file_limit / 2)
		return;
	for (size_t i = 0; i < BUCKETS && open_count > C.file_limit / 4; i++, hand = (hand + 1) % BUCKETS)
		for (struct node *node = table[hand]; node; node = node->next) {
			pthread_mutex_lock(&node->lock);
			bool used = node->opens || node->flying;
			pthread_mutex_unlock(&node->lock);
			if (node->fd < 0 || node->pins || used || node->plain)
				continue;
			node->path = node_path(node);
			close(node->fd);
			node->fd = -1;
			open_count--;
		}
}

/* With the table's lock. */
static void pin(struct node *node)
{
	if (pinned_count < sizeof pinned / sizeof *pinned) {
		pinned[pinned_count++] = node;
		node->pins++;
	}
	if (node->fd >= 0 || !node->path)
		return;
	node->fd = openat(C.target_fd, node->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node->fd >= 0 && !is_same(node->fd, node)) { /* renamed outside: the kernel looks it up again */
		close(node->fd);
		node->fd = -1;
	}
	if (node->fd >= 0) {
		open_count++;
		free(node->path);
		node->path = NULL;
		make_room();
	}
}

static void node_free(struct node *node)
{
	settle(node);
	if (node->fd >= 0)
		close(node->fd);
	free(node->path);
	pthread_mutex_destroy(&node->lock);
	pthread_mutex_destroy(&node->order);
	pthread_cond_destroy(&node->settled);
	free(node);
}

void nodes_unpin(void)
{
	struct node *ended[sizeof pinned / sizeof *pinned];
	uint32_t count = 0;
	if (!pinned_count)
		return;
	pthread_mutex_lock(&table_lock);
	while (pinned_count) {
		struct node *node = pinned[--pinned_count];
		if (--node->pins == 0 && node->forgotten)
			ended[count++] = node;
	}
	pthread_mutex_unlock(&table_lock);
	while (count)
		node_free(ended[--count]);
}

struct node *node_of(fuse_ino_t number)
{
	struct node *node = (struct node *)number;
	if (number == FUSE_ROOT_ID)
		return &C.root;
	pthread_mutex_lock(&table_lock);
	pin(node);
	pthread_mutex_unlock(&table_lock);
	return node;
}

void nodes_moved(const char *old, const char *new)
{
	size_t length = strlen(old);
	pthread_mutex_lock(&table_lock);
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct node *node = table[i]; node; node = node->next) {
			if (!node->path || strncmp(node->path, old, length) != 0 ||
			    (node->path[length] && node->path[length] != '/'))
				continue;
			char *path = must_alloc(strlen(new) + strlen(node->path + length) + 1);
			strcpy(path, new);
			strcat(path, node->path + length);
			free(node->path);
			node->path = path;
		}
	pthread_mutex_unlock(&table_lock);
}

static bool handle_of(int fd, struct file_handle *handle)
{
	int mount;
	handle->handle_bytes = MAX_HANDLE_SZ;
	return name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH) == 0;
}

/* Network file systems tell no birth: there only the handles differ when a number was given to another file. */
static bool is_one(int fd, const struct node *node)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} new, old;
	if (!handle_of(fd, &new.handle) || !handle_of(node->fd, &old.handle))
		return is_same(node->fd, node);
	return new.handle.handle_type == old.handle.handle_type && new.handle.handle_bytes == old.handle.handle_bytes &&
	       memcmp(new.handle.f_handle, old.handle.f_handle, new.handle.handle_bytes) == 0;
}

/* While its descriptor was closed, or by another client, its number may have been given to another file. */
static void node_renew(struct node *node, const struct statx *now)
{
	int64_t born = now->stx_mask & STATX_BTIME ? now->stx_btime.tv_sec * 1000000000ll + now->stx_btime.tv_nsec : 0;
	pthread_mutex_lock(&node->lock);
	if (node->fd >= 0 || born != node->born) {
		node->born = born;
		node->type = now->stx_mode & S_IFMT;
		memset(node->announced, 0, sizeof node->announced);
		node_touched(node);
	}
	pthread_mutex_unlock(&node->lock);
}

struct node *node_enter(int fd, const struct statx *now)
{
	dev_t device = makedev(now->stx_dev_major, now->stx_dev_minor);
	pthread_mutex_lock(&table_lock);
	struct node **at = bucket(now->stx_ino), *node = *at;
	while (node && (node->ino != now->stx_ino || node->device != device))
		node = node->next;
	if (node && node->fd >= 0 && is_one(fd, node)) {
		close(fd);
	} else if (node && node->fd >= 0) { /* of a network file system: another client gave the number to another file */
		node_renew(node, now);
		dup3(fd, node->fd, O_CLOEXEC);
		close(fd);
	} else if (node) {
		node_renew(node, now);
		node->fd = fd;
		free(node->path);
		node->path = NULL;
		open_count++;
	} else {
		node = must_alloc(sizeof *node);
		node_init(node, fd, now);
		node->next = *at;
		*at = node;
		open_count++;
	}
	node->lookups++;
	pin(node);
	make_room();
	pthread_mutex_unlock(&table_lock);
	return node;
}

struct node *node_find(uint64_t ino)
{
	pthread_mutex_lock(&table_lock);
	struct node *node = *bucket(ino);
	while (node && (node->ino != ino || node->plain))
		node = node->next;
	if (node)
		node->lookups++;
	pthread_mutex_unlock(&table_lock);
	return node;
}

struct node **nodes_open(uint32_t *count)
{
	struct node **open = NULL;
	uint32_t room = 0;
	*count = 0;
	pthread_mutex_lock(&table_lock);
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct node *node = table[i]; node; node = node->next) {
			pthread_mutex_lock(&node->lock);
			bool is_open = node->opens;
			pthread_mutex_unlock(&node->lock);
			if (!is_open)
				continue;
			if (*count == room) {
				room = room ? 2 * room : 64;
				open = must_realloc(open, room * sizeof *open);
			}
			node->lookups++;
			open[(*count)++] = node;
		}
	pthread_mutex_unlock(&table_lock);
	return open;
}

void node_forget(struct node *node, uint64_t lookups)
{
	if (node == &C.root || (fuse_ino_t)node == FUSE_ROOT_ID)
		return;
	pthread_mutex_lock(&table_lock);
	node->lookups -= lookups;
	bool gone = !node->lookups;
	if (gone) {
		struct node **at = bucket(node->ino);
		while (*at != node)
			at = &(*at)->next;
		*at = node->next;
		if (node->fd >= 0)
			open_count--;
		node->forgotten = true;
		gone = !node->pins;
	}
	pthread_mutex_unlock(&table_lock);
	if (gone)
		node_free(node);
}

void nodes_each(void (*visit)(struct node *node, void *argument), void *argument)
{
	pthread_mutex_lock(&table_lock);
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct node *node = table[i]; node; node = node->next)
			visit(node, argument);
	pthread_mutex_unlock(&table_lock);
}

void self_path(const struct node *node, char path[32])
{
	snprintf(path, 32, "/proc/self/fd/%d", node->fd);
}

char *node_path(const struct node *node)
{
	char self[32], path[8192];
	size_t prefix = strlen(root_path);
	if (node->fd < 0)
		return must_copy(node->path ? node->path : "");
	self_path(node, self);
	ssize_t length = readlink(self, path, sizeof path - 1);
	if (length < 0)
		length = 0;
	path[length] = 0;
	if (length > 10 && strcmp(path + length - 10, " (deleted)") == 0) /* the last name that it had */
		path[length - 10] = 0;
	if (strncmp(path, root_path, prefix) != 0 || path[prefix] != '/')
		return must_copy("");
	return must_copy(path + prefix + 1);
}

struct message about(const struct node *node, enum op op)
{
	struct message message = {.op = op, .target = C.target_index, .ino = node->ino};
	if (op == OP_OPEN || op == OP_PATH)
		message.offset = (uint64_t)node->born;
	return message;
}

static void add_buffered(const struct message *answers, struct stat *now)
{
	int64_t mtime = 0;
	for (uint32_t i = 0; i < C.count; i++) {
		if (!(answers[i].flags & FLAG_BUFFERED))
			continue;
		if ((off_t)answers[i].size > now->st_size)
			now->st_size = (off_t)answers[i].size;
		if (answers[i].mtime > mtime)
			mtime = answers[i].mtime;
	}
	if (!mtime)
		return;
	now->st_mtim = (struct timespec){mtime / 1000000000, mtime % 1000000000};
	if (now->st_blocks * 512 < now->st_size) /* tar and cp take a file without blocks for one hole */
		now->st_blocks = (now->st_size + 511) / 512;
}

static bool is_time(const struct timespec *seen, uint64_t set)
{
	uint64_t fraction = seen->tv_nsec ? set % 1000000000 : 0; /* some file systems keep whole seconds */
	return (uint64_t)seen->tv_sec == set / 1000000000 && (uint64_t)seen->tv_nsec == fraction;
}

/* A network file system may show what was there before a server drained something; whoever opens a file sees what is there.
 * Once for each drain: programs may have set another time. */
static void look_again(struct node *node, const struct message *answers, struct stat *now)
{
	uint64_t drains = 0;
	bool other = false;
	char self[32];
	for (uint32_t i = 0; i < C.count; i++) {
		drains += answers[i].version;
		other |= answers[i].version && !is_time(&now->st_mtim, answers[i].version);
	}
	pthread_mutex_lock(&node->lock);
	other = other && drains != node->looked;
	pthread_mutex_unlock(&node->lock);
	if (!other)
		return;
	self_path(node, self);
	int fd = open(self, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, now) == 0) {
		pthread_mutex_lock(&node->lock);
		node->looked = drains;
		pthread_mutex_unlock(&node->lock);
	}
	close(fd);
}

void node_touched(struct node *node)
{
	node->untouched = false;
	node->touches++;
}

double keep_seconds(void)
{
	return C.alone ? ALONE_SECONDS : 0;
}

static bool is_untouched(struct node *node)
{
	pthread_mutex_lock(&node->lock);
	bool untouched = node->untouched;
	pthread_mutex_unlock(&node->lock);
	return untouched && C.alone;
}

int node_attributes(struct node *node, struct stat *now)
{
	struct message answers[MAX_SERVERS];
	bool buffers = node->type == S_IFREG && !node->plain && !is_untouched(node), any = false;
	if (buffers) {
		struct message ask = about(node, OP_GETATTR);
		settle(node);
		pthread_mutex_lock(&node->lock);
		uint64_t touches = node->touches;
		pthread_mutex_unlock(&node->lock);
		int error = call_all(&ask, NULL, NULL, answers);
		for (uint32_t i = 0; i < C.count && !error; i++)
			any |= answers[i].flags & FLAG_BUFFERED;
		pthread_mutex_lock(&node->lock);
		node->untouched = !error && !any && node->touches == touches && C.alone;
		pthread_mutex_unlock(&node->lock);
		if (error)
			return error;
	}
	/* After the servers: what they drained meanwhile shows in it. */
	if (fstatat(node->fd, "", now, AT_EMPTY_PATH))
		return errno;
	if (buffers) {
		look_again(node, answers, now);
		add_buffered(answers, now);
	}
	if (node->type != S_IFREG || node->plain)
		return 0;
	/* Draining changes it at some time, and tar takes that for somebody who writes. */
	now->st_ctim = now->st_mtim;
	if (now->st_blksize < PREFERRED)
		now->st_blksize = PREFERRED;
	return 0;
}
