/*
 * Names, modes, owners, links: all of it happens in the target's file system at once, done by this process as the owner. The
 * servers hear of what concerns bytes they may have.
 */
#include "client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FLUSH_ATTRIBUTE "user.ebb.flush"

static struct node *node_at(int fd, struct statx *now)
{
	if (fd < 0)
		return NULL;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, now)) {
		int error = errno;
		close(fd);
		errno = error;
		return NULL;
	}
	return node_enter(fd, now);
}

static struct node *child(struct node *parent, const char *name, struct statx *now)
{
	return node_at(openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), now);
}

/* The one that a descriptor is open of, whatever has its name by now. */
static struct node *opened(int fd, struct statx *now)
{
	char self[32];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	return node_at(open(self, O_PATH | O_CLOEXEC), now);
}

/* Fills an entry for a node; fresh: it was made just now. errno */
static int enter(struct node *node, bool fresh, struct fuse_entry_param *entry)
{
	memset(entry, 0, sizeof *entry);
	entry->attr_timeout = entry->entry_timeout = keep_seconds();
	if (!node)
		return errno;
	if (fresh) {
		pthread_mutex_lock(&node->lock);
		node->untouched = true;
		pthread_mutex_unlock(&node->lock);
	}
	entry->ino = (fuse_ino_t)node;
	int error = node_attributes(node, &entry->attr);
	if (error)
		node_forget(node, 1);
	return error;
}

static void reply_entry(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	struct statx now;
	int error = enter(child(node_of(parent), name, &now), false, &entry);
	if (error)
		fuse_reply_err(request, error);
	else
		fuse_reply_entry(request, &entry);
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	reply_entry(request, parent, name);
}

static void do_forget(fuse_req_t request, fuse_ino_t ino, uint64_t lookups)
{
	node_forget((struct node *)ino, lookups);
	fuse_reply_none(request);
}

static void do_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		node_forget((struct node *)forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(request);
}

static void do_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat now;
	(void)info;
	int error = node_attributes(node_of(ino), &now);
	if (error)
		fuse_reply_err(request, error);
	else
		fuse_reply_attr(request, &now, keep_seconds());
}

static bool is_owner(const struct node *node)
{
	struct stat now;
	return fstatat(node->fd, "", &now, AT_EMPTY_PATH) == 0 && now.st_uid == geteuid();
}

static int set_times(struct node *node, const struct stat *wanted, int what)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	char self[32];
	if (what & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_ATIME)
		times[0] = wanted->st_atim;
	if (what & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_MTIME)
		times[1] = wanted->st_mtim;
	self_path(node, self);
	if (node->type == S_IFREG && !node->plain && times[1].tv_nsec != UTIME_OMIT) {
		/* First the servers: what they set on the target from now on is this time. */
		struct message message = about(node, OP_SETTIME);
		message.mtime = times[1].tv_nsec == UTIME_NOW ? now_ns()
							      : times[1].tv_sec * 1000000000ll + times[1].tv_nsec;
		if (faccessat(AT_FDCWD, self, W_OK, AT_EACCESS) && !is_owner(node))
			return errno;
		settle(node);
		pthread_mutex_lock(&node->lock);
		node->mtime = 0; /* what was written before does not change it any more */
		pthread_mutex_unlock(&node->lock);
		int error = call_all(&message, NULL, NULL, NULL);
		if (error)
			return error;
	}
	if (node->type == S_IFLNK ? utimensat(node->fd, "", times, AT_EMPTY_PATH) : utimensat(AT_FDCWD, self, times, 0))
		return errno;
	return 0;
}

static int set_attributes(struct node *node, const struct stat *wanted, int what, struct fuse_file_info *info)
{
	char self[32];
	struct handle *handle = info ? (struct handle *)info->fh : NULL;
	int error = 0;
	self_path(node, self);
	if (what & FUSE_SET_ATTR_MODE && chmod(self, wanted->st_mode))
		return errno;
	if (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = what & FUSE_SET_ATTR_UID ? wanted->st_uid : (uid_t)-1;
		gid_t gid = what & FUSE_SET_ATTR_GID ? wanted->st_gid : (gid_t)-1;
		if (fchownat(node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
			return errno;
	}
	if (what & FUSE_SET_ATTR_SIZE) {
		int fd = handle ? handle->fd : open(self, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			return errno;
		error = truncate_node(node, (uint64_t)wanted->st_size, fd);
		if (!handle)
			close(fd);
	}
	if (!error && what & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW))
		error = set_times(node, wanted, what);
	return error;
}

static void do_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *wanted, int what, struct fuse_file_info *info)
{
	struct stat now;
	int error = set_attributes(node_of(ino), wanted, what, info);
	if (!error)
		error = node_attributes(node_of(ino), &now);
	if (error)
		fuse_reply_err(request, error);
	else
		fuse_reply_attr(request, &now, keep_seconds());
}

static void do_readlink(fuse_req_t request, fuse_ino_t ino)
{
	char text[4097];
	ssize_t length = readlinkat(node_of(ino)->fd, "", text, sizeof text - 1);
	if (length < 0) {
		fuse_reply_err(request, errno);
		return;
	}
	text[length] = 0;
	fuse_reply_readlink(request, text);
}

static void do_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
	if (mknodat(node_of(parent)->fd, name, mode, device))
		fuse_reply_err(request, errno);
	else
		reply_entry(request, parent, name);
}

static void do_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
	if (mkdirat(node_of(parent)->fd, name, mode))
		fuse_reply_err(request, errno);
	else
		reply_entry(request, parent, name);
}

static void do_symlink(fuse_req_t request, const char *to, fuse_ino_t parent, const char *name)
{
	if (symlinkat(to, node_of(parent)->fd, name))
		fuse_reply_err(request, errno);
	else
		reply_entry(request, parent, name);
}

static void do_link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	char self[32];
	self_path(node_of(ino), self);
	if (linkat(AT_FDCWD, self, node_of(parent)->fd, name, AT_SYMLINK_FOLLOW))
		fuse_reply_err(request, errno);
	else
		reply_entry(request, parent, name);
}

/* The file that a name is about to be taken from, if it is one with bytes and this is its last name. Counts a lookup. */
static struct node *last_name(struct node *parent, const char *name)
{
	struct statx now;
	struct node *node = child(parent, name, &now);
	if (!node)
		return NULL;
	if (node->type == S_IFREG && !node->plain && now.stx_nlink == 1) {
		struct message message = about(node, OP_UNLINK);
		if (call(home_of(node->ino, C.count), &message, NULL) == 0 && message.flags & FLAG_BUFFERED) {
			message = about(node, OP_HOLD);
			call_all(&message, node, NULL, NULL);
		}
		return node;
	}
	node_forget(node, 1);
	return NULL;
}

/* Its last name is gone, or another one was made meanwhile. */
static void lost_name(struct node *node)
{
	struct stat now;
	if (!node)
		return;
	if (fstatat(node->fd, "", &now, AT_EMPTY_PATH) == 0 && now.st_nlink == 0) {
		struct message answers[MAX_SERVERS], message = about(node, OP_UNLINK);
		message.flags = FLAG_AFTER;
		settle(node);
		call_all(&message, NULL, NULL, answers);
		if (answers[home_of(node->ino, C.count)].flags & FLAG_DROPPABLE) {
			message = about(node, OP_DROP);
			call_all(&message, NULL, NULL, NULL);
		}
	}
	node_forget(node, 1);
}

static void do_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct node *node = last_name(node_of(parent), name);
	if (unlinkat(node_of(parent)->fd, name, 0)) {
		int error = errno;
		if (node)
			node_forget(node, 1);
		fuse_reply_err(request, error);
		return;
	}
	lost_name(node);
	fuse_reply_err(request, 0);
}

static void do_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(request, unlinkat(node_of(parent)->fd, name, AT_REMOVEDIR) ? errno : 0);
}

/* Where it went, for servers that know it by its path, or files below it. */
static void tell_renamed(struct node *node, const char *old)
{
	char *new = node_path(node), both[16384];
	struct message message = about(node, OP_RENAME);
	size_t old_size = strlen(old) + 1, new_size = strlen(new) + 1;
	if (node->type == S_IFDIR)
		message.ino = 0;
	nodes_moved(old, new);
	if ((node->type == S_IFDIR || node->type == S_IFREG) && old_size + new_size <= sizeof both) {
		memcpy(both, old, old_size);
		memcpy(both + old_size, new, new_size);
		message.length = (uint32_t)(old_size + new_size);
		call_all(&message, NULL, both, NULL);
	}
	free(new);
}

static void do_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *new_name,
		      unsigned int flags)
{
	struct statx now;
	struct node *node = child(node_of(parent), name, &now), *replaced = NULL;
	char *old = node ? node_path(node) : NULL;
	if (!(flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)))
		replaced = last_name(node_of(to), new_name);
	int error = renameat2(node_of(parent)->fd, name, node_of(to)->fd, new_name, flags) ? errno : 0;
	if (replaced && !error)
		lost_name(replaced);
	else if (replaced)
		node_forget(replaced, 1);
	if (node && !error)
		tell_renamed(node, old);
	free(old);
	if (node)
		node_forget(node, 1);
	fuse_reply_err(request, error);
}

static void do_access(fuse_req_t request, fuse_ino_t ino, int mask)
{
	char self[32];
	self_path(node_of(ino), self);
	fuse_reply_err(request, faccessat(AT_FDCWD, self, mask, AT_EACCESS) ? errno : 0);
}

static void do_statfs(fuse_req_t request, fuse_ino_t ino)
{
	struct statvfs now;
	if (fstatvfs(node_of(ino)->fd, &now))
		fuse_reply_err(request, errno);
	else
		fuse_reply_statfs(request, &now);
}

struct listing {
	DIR *list;
	off_t at;
	pthread_mutex_t lock;
};

static void do_opendir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	int fd = openat(node_of(ino)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);
	if (!list) {
		int error = errno;
		if (fd >= 0)
			close(fd);
		fuse_reply_err(request, error);
		return;
	}
	struct listing *listing = must_alloc(sizeof *listing);
	listing->list = list;
	pthread_mutex_init(&listing->lock, NULL);
	info->fh = (uint64_t)listing;
	fuse_reply_open(request, info);
}

static void do_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	struct listing *listing = (struct listing *)info->fh;
	char *buffer = must_alloc(size);
	size_t used = 0;
	(void)ino;
	pthread_mutex_lock(&listing->lock);
	if (offset != listing->at) {
		if (offset == 0)
			rewinddir(listing->list);
		else
			seekdir(listing->list, offset);
		listing->at = offset;
	}
	for (;;) {
		struct dirent *entry = readdir(listing->list);
		if (!entry)
			break;
		struct stat now = {.st_ino = entry->d_ino, .st_mode = DTTOIF(entry->d_type)};
		size_t need = fuse_add_direntry(request, buffer + used, size - used, entry->d_name, &now, entry->d_off);
		if (need > size - used) {
			seekdir(listing->list, listing->at); /* it comes first the next time */
			break;
		}
		used += need;
		listing->at = entry->d_off;
	}
	pthread_mutex_unlock(&listing->lock);
	fuse_reply_buf(request, buffer, used);
	free(buffer);
}

static void do_releasedir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct listing *listing = (struct listing *)info->fh;
	(void)ino;
	closedir(listing->list);
	pthread_mutex_destroy(&listing->lock);
	free(listing);
	fuse_reply_err(request, 0);
}

static void do_fsyncdir(fuse_req_t request, fuse_ino_t ino, int only_data, struct fuse_file_info *info)
{
	struct listing *listing = (struct listing *)info->fh;
	(void)ino, (void)only_data;
	fuse_reply_err(request, fsync(dirfd(listing->list)) ? errno : 0);
}

static bool takes_attributes(fuse_req_t request, struct node *node)
{
	if (node->type == S_IFREG || node->type == S_IFDIR)
		return true;
	fuse_reply_err(request, EPERM);
	return false;
}

static void do_setxattr(fuse_req_t request, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct node *node = node_of(ino);
	char self[32];
	if (!takes_attributes(request, node))
		return;
	self_path(node, self);
	if (strcmp(name, FLUSH_ATTRIBUTE) == 0 && node->type == S_IFREG && !node->plain)
		fuse_reply_err(request, size == 3 && memcmp(value, "now", 3) == 0 ? flush_node(node, FLAG_TARGET) : EINVAL);
	else
		fuse_reply_err(request, setxattr(self, name, value, size, flags) ? errno : 0);
}

static void reply_attribute(fuse_req_t request, const char *value, ssize_t length, size_t size)
{
	if (length < 0)
		fuse_reply_err(request, errno);
	else if (!size)
		fuse_reply_xattr(request, (size_t)length);
	else
		fuse_reply_buf(request, value, (size_t)length);
}

static void do_getxattr(fuse_req_t request, fuse_ino_t ino, const char *name, size_t size)
{
	char self[32], *value = must_alloc(size);
	if (takes_attributes(request, node_of(ino))) {
		self_path(node_of(ino), self);
		reply_attribute(request, value, getxattr(self, name, value, size), size);
	}
	free(value);
}

static void do_listxattr(fuse_req_t request, fuse_ino_t ino, size_t size)
{
	char self[32], *value = must_alloc(size);
	if (takes_attributes(request, node_of(ino))) {
		self_path(node_of(ino), self);
		reply_attribute(request, value, listxattr(self, value, size), size);
	}
	free(value);
}

static void do_removexattr(fuse_req_t request, fuse_ino_t ino, const char *name)
{
	char self[32];
	if (!takes_attributes(request, node_of(ino)))
		return;
	self_path(node_of(ino), self);
	fuse_reply_err(request, removexattr(self, name) ? errno : 0);
}

static void do_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *info)
{
	struct node *directory = node_of(parent);
	struct fuse_entry_param entry;
	int access = info->flags & (O_ACCMODE | O_EXCL | O_SYNC | O_DSYNC);
	int fd = openat(directory->fd, name, access | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	bool fresh = fd >= 0;
	if (fd < 0 && errno == EEXIST && !(info->flags & O_EXCL))
		fd = openat(directory->fd, name, access | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0) {
		fuse_reply_err(request, errno);
		return;
	}
	struct statx now;
	int error = enter(opened(fd, &now), fresh, &entry);
	struct handle *handle = error ? NULL : handle_open((struct node *)entry.ino, fd, info, fresh);
	if (!error && !fresh && info->flags & O_TRUNC) {
		error = truncate_node((struct node *)entry.ino, 0, fd);
		entry.attr.st_size = 0;
		if (error) {
			handle_close(handle);
			node_forget((struct node *)entry.ino, 1);
		}
	}
	if (error) {
		if (!handle)
			close(fd);
		fuse_reply_err(request, error);
		return;
	}
	fuse_reply_create(request, &entry, info);
}

void names_operations(struct fuse_lowlevel_ops *operations)
{
	operations->lookup = do_lookup;
	operations->forget = do_forget;
	operations->forget_multi = do_forget_multi;
	operations->getattr = do_getattr;
	operations->setattr = do_setattr;
	operations->readlink = do_readlink;
	operations->mknod = do_mknod;
	operations->mkdir = do_mkdir;
	operations->symlink = do_symlink;
	operations->link = do_link;
	operations->unlink = do_unlink;
	operations->rmdir = do_rmdir;
	operations->rename = do_rename;
	operations->access = do_access;
	operations->statfs = do_statfs;
	operations->opendir = do_opendir;
	operations->readdir = do_readdir;
	operations->releasedir = do_releasedir;
	operations->fsyncdir = do_fsyncdir;
	operations->setxattr = do_setxattr;
	operations->getxattr = do_getxattr;
	operations->listxattr = do_listxattr;
	operations->removexattr = do_removexattr;
	operations->create = do_create;
}
