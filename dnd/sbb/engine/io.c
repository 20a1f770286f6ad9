/*
 * Bytes of files. A write is answered, copied out of the kernel's request, and sent behind the program's back: in order, byte by
 * byte what the program wrote, never a whole page around it. Whatever must see it (read, stat, fsync, close) waits for it first.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_SPLIT (MAX_PAYLOAD / 65536 + 2)

static bool old_kernel; /* direct writes leave stale pages in its cache */

static uint64_t version_of(int fd)
{
	struct stat now;
	return fstat(fd, &now) ? 0 : (uint64_t)(now.st_mtim.tv_sec * 1000000000ll + now.st_mtim.tv_nsec);
}

struct handle *handle_open(struct node *node, int fd, struct fuse_file_info *info, bool fresh)
{
	struct handle *handle = must_alloc(sizeof *handle);
	handle->node = node;
	handle->fd = fd;
	info->fh = (uint64_t)handle;
	/* What is only written needs no pages of the kernel; whoever may map it has them. */
	info->direct_io = (info->flags & O_ACCMODE) == O_WRONLY && !old_kernel;
	if (node->plain)
		return handle;
	pthread_mutex_lock(&node->order);
	pthread_mutex_lock(&node->lock);
	bool first = node->opens++ == 0;
	node->version = version_of(fd);
	pthread_mutex_unlock(&node->lock);
	if (first) {
		struct message message = about(node, OP_OPEN);
		if (fresh || C.alone) /* who could unlink it now without our knowing? */
			post(home_of(node->ino, C.count), &message);
		else
			call(home_of(node->ino, C.count), &message, NULL);
	}
	pthread_mutex_unlock(&node->order);
	return handle;
}

bool has_names(int fd)
{
	struct stat now;
	return fstat(fd, &now) == 0 && now.st_nlink;
}

/* Nobody here has it open any more. An unlinked file that nobody has open anywhere is dropped, while its number is still taken:
 * the next file that gets it must not be dropped. */
static void tell_closed(struct node *node, int fd)
{
	struct message message = about(node, OP_CLOSE);
	post(home_of(node->ino, C.count), &message);
	if (has_names(fd))
		return;
	message = about(node, OP_UNLINK); /* once more: it was open then, or the server was another one */
	message.flags = FLAG_AFTER;
	call(home_of(node->ino, C.count), &message, NULL);
	if (message.flags & FLAG_DROPPABLE) {
		message = about(node, OP_DROP);
		call_all(&message, NULL, NULL, NULL);
	}
}

/* The mount is gone, and with it the kernel's word that programs closed what they had open. */
void close_at_end(struct node *node, void *unused)
{
	(void)unused;
	if (node->plain || !node->opens)
		return;
	settle(node);
	tell_closed(node, node->fd);
}

void handle_close(struct handle *handle)
{
	struct node *node = handle->node;
	if (!node->plain) {
		pthread_mutex_lock(&node->order);
		pthread_mutex_lock(&node->lock);
		bool last = --node->opens == 0;
		if (last)
			node->written = false;
		pthread_mutex_unlock(&node->lock);
		if (last) {
			settle(node);
			tell_closed(node, handle->fd);
		}
		pthread_mutex_unlock(&node->order);
	}
	close(handle->fd);
	free(handle);
}

int truncate_node(struct node *node, uint64_t size, int fd)
{
	struct message message = about(node, OP_TRUNCATE), again;
	if (node->plain)
		return ftruncate(fd, (off_t)size) ? errno : 0;
	settle(node);
	message.size = size;
	message.mtime = now_ns();
	pthread_mutex_lock(&node->lock);
	node_touched(node);
	pthread_mutex_unlock(&node->lock);
	again = message;
	again.flags = FLAG_AFTER;
	int error = call_all(&message, NULL, NULL, NULL);
	if (error)
		return error;
	int failed = ftruncate(fd, (off_t)size) ? errno : 0;
	error = call_all(&again, NULL, NULL, NULL);
	return failed ? failed : error;
}

/* What this client wrote is at the servers, and all other clients read it from now on. */
int flush_node(struct node *node, uint16_t flags)
{
	struct message message = about(node, OP_FLUSH);
	settle(node);
	pthread_mutex_lock(&node->lock);
	int error = node->error;
	bool wrote = node->wrote;
	message.mtime = node->mtime;
	node->error = 0;
	node->wrote = false;
	node->mtime = 0;
	pthread_mutex_unlock(&node->lock);
	message.flags = flags;
	if (wrote || flags) {
		int failed = call_all(&message, NULL, NULL, NULL);
		error = error ? error : failed;
	}
	return error;
}

static void do_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct node *node = node_of(ino);
	char self[32];
	self_path(node, self);
	int fd = open(self, (info->flags & (O_ACCMODE | O_SYNC | O_DSYNC)) | O_CLOEXEC), error = 0;
	if (fd < 0) {
		fuse_reply_err(request, errno);
		return;
	}
	struct handle *handle = handle_open(node, fd, info, false);
	if (info->flags & O_TRUNC)
		error = truncate_node(node, 0, handle->fd);
	if (error) {
		handle_close(handle);
		fuse_reply_err(request, error);
	} else {
		fuse_reply_open(request, info);
	}
}

static void do_release(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	node_of(ino);
	handle_close((struct handle *)info->fh);
	fuse_reply_err(request, 0);
}

static void do_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct node *node = node_of(ino);
	(void)info;
	fuse_reply_err(request, node->plain ? 0 : flush_node(node, 0));
}

static void do_fsync(fuse_req_t request, fuse_ino_t ino, int only_data, struct fuse_file_info *info)
{
	struct node *node = node_of(ino);
	struct handle *handle = (struct handle *)info->fh;
	(void)only_data;
	if (node->plain)
		fuse_reply_err(request, fsync(handle->fd) ? errno : 0);
	else
		fuse_reply_err(request, flush_node(node, C.sync_target ? FLAG_TARGET : FLAG_DURABLE));
}

/*
 * One READ a stripe; *edge: some of it may lie beyond the end of the file. below: a descriptor of the target's file, for
 * servers that cannot reach it themselves, or -1.
 */
static int read_stripes(struct node *node, uint64_t offset, uint32_t size, char *into, bool *edge, int below)
{
	struct request requests[MAX_SPLIT];
	struct wait wait;
	uint32_t count = 0;
	pthread_mutex_lock(&node->lock);
	uint64_t version = node->version;
	pthread_mutex_unlock(&node->lock);
	for (uint32_t done = 0, part; done < size; done += part, count++) {
		uint64_t at = offset + done, left = C.stripe - at % C.stripe;
		part = left < size - done ? (uint32_t)left : size - done;
		requests[count] = (struct request){.message = about(node, OP_READ), .node = node, .into = into + done,
						   .into_size = part};
		requests[count].message.offset = at;
		requests[count].message.size = part;
		requests[count].message.version = version;
		if (below >= 0) {
			ssize_t got = pread(below, into + done, part, (off_t)at);
			if (got < 0)
				return errno;
			memset(into + done + got, 0, part - (size_t)got);
			requests[count].payload = (struct iovec){into + done, part};
		}
	}
	begin(requests, count, &wait);
	int error = finish(requests, count, &wait);
	*edge = false;
	for (uint32_t i = 0; i < count; i++) {
		*edge |= (requests[i].answer.flags & FLAG_EDGE) != 0;
		if (!requests[i].answer.error && requests[i].answer.length != requests[i].into_size)
			error = EIO;
	}
	return error;
}

static void do_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	struct node *node = node_of(ino);
	struct handle *handle = (struct handle *)info->fh;
	char *buffer = buffer_take();
	bool edge = false;
	int error = ESTALE;
	if (size > MAX_PAYLOAD)
		size = MAX_PAYLOAD;
	if (node->plain) {
		ssize_t got = pread(handle->fd, buffer, size, offset);
		error = got < 0 ? errno : 0;
		size = got < 0 ? 0 : (size_t)got;
	} else {
		for (int tries = 0; tries < 6 && error == ESTALE; tries++) {
			error = read_stripes(node, (uint64_t)offset, (uint32_t)size, buffer, &edge, tries >= 2 ? handle->fd : -1);
			if (error == ESTALE) { /* the servers know it by an old name */
				pthread_mutex_lock(&node->lock);
				memset(node->announced, 0, sizeof node->announced);
				pthread_mutex_unlock(&node->lock);
			}
		}
	}
	if (!error && edge) {
		struct stat now;
		error = node_attributes(node, &now);
		uint64_t left = now.st_size > offset ? (uint64_t)(now.st_size - offset) : 0;
		if (!error && size > left)
			size = left;
	}
	if (error)
		fuse_reply_err(request, error);
	else
		fuse_reply_buf(request, buffer, size);
	buffer_give(buffer);
}

/* Where to append: no two clients get the same place. */
static int reserve(struct node *node, size_t size, off_t *offset)
{
	struct stat now;
	int error = node_attributes(node, &now);
	struct message message = about(node, OP_RESERVE);
	message.size = size;
	message.offset = (uint64_t)now.st_size;
	random_bytes(&message.version, sizeof message.version); /* asked again after a break, it gets the same place */
	if (!error)
		error = call(home_of(node->ino, C.count), &message, NULL);
	*offset = (off_t)message.offset;
	return error;
}

static void write_stripes(struct node *node, const char *bytes, uint64_t offset, size_t size, int64_t mtime)
{
	for (size_t done = 0, part; done < size; done += part) {
		uint64_t at = offset + done, left = C.stripe - at % C.stripe;
		part = left < size - done ? (size_t)left : size - done;
		write_behind(node, at, bytes + done, (uint32_t)part, mtime, part == size ? &current_buffer : NULL);
	}
}

static void do_write(fuse_req_t request, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		     struct fuse_file_info *info)
{
	struct node *node = node_of(ino);
	struct handle *handle = (struct handle *)info->fh;
	if (node->plain) {
		ssize_t wrote = pwrite(handle->fd, bytes, size, offset);
		if (wrote < 0)
			fuse_reply_err(request, errno);
		else
			fuse_reply_write(request, (size_t)wrote);
		return;
	}
	int64_t mtime = now_ns();
	pthread_mutex_lock(&node->lock);
	int error = node->error;
	node->wrote = node->written = true;
	node_touched(node);
	node->mtime = mtime;
	pthread_mutex_unlock(&node->lock);
	if (!error && info->flags & O_APPEND && !info->writepage)
		error = reserve(node, size, &offset);
	if (error) {
		fuse_reply_err(request, error);
		return;
	}
	wait_for_window((uint32_t)size);
	/*
	 * The program goes on while its bytes are put into the queue. What it asks next is taken from the kernel by this thread,
	 * which leads, and so finds them there; and neither putting them there nor what is sent later fails without being told.
	 */
	bool early = leading();
	if (early)
		fuse_reply_write(request, size);
	write_stripes(node, bytes, (uint64_t)offset, size, mtime);
	if (!early)
		fuse_reply_write(request, size);
	if (size >= LARGE)
		hurry();
}

/* Whatever the kernel has of files that are open may be old. */
void forget_pages(void)
{
	uint32_t count;
	struct node **open = nodes_open(&count);
	for (uint32_t i = 0; i < count; i++) {
		fuse_lowlevel_notify_inval_inode(C.fuse, (fuse_ino_t)open[i], 0, 0);
		node_forget(open[i], 1);
	}
	free(open);
}

/* Others changed it: what the kernel has of it is old. Called by a callback connection's thread. */
void callback_invalidate(const struct message *what)
{
	if (!what->ino) {
		C.alone = what->flags & FLAG_ALONE && !C.broke;
		if (!C.alone)
			forget_pages();
	}
	struct node *node = what->ino && what->target == C.target_index ? node_find(what->ino) : NULL;
	if (!node)
		return;
	fuse_lowlevel_notify_inval_inode(C.fuse, (fuse_ino_t)node, 0, 0);
	node_forget(node, 1);
}

static void do_init(void *unused, struct fuse_conn_info *connection)
{
	(void)unused;
	old_kernel = connection->proto_minor < 39;
	connection->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
					FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_READDIRPLUS);
	connection->max_write = MAX_PAYLOAD;
	connection->max_readahead = MAX_PAYLOAD;
	connection->max_background = 64;
	connection->congestion_threshold = 48;
	connection->time_gran = 1;
}

void io_operations(struct fuse_lowlevel_ops *operations)
{
	operations->init = do_init;
	operations->open = do_open;
	operations->release = do_release;
	operations->flush = do_flush;
	operations->fsync = do_fsync;
	operations->read = do_read;
	operations->write = do_write;
}
