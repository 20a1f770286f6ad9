/*
 * A file system in user space that takes every write and keeps nothing: what FUSE itself costs, and so the ceiling for any
 * buffer behind it. nothing DIR [cached]; with "cached", the kernel gathers writes in its page cache. It ends when DIR is
 * unmounted. Its only file is shown under every name.
 */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

static bool cached;

static void do_init(void *unused, struct fuse_conn_info *connection)
{
	(void)unused;
	connection->max_write = 1 << 20;
	if (cached)
		connection->want |= FUSE_CAP_WRITEBACK_CACHE;
}

static struct stat attributes(fuse_ino_t ino)
{
	return (struct stat){.st_ino = ino, .st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0777 : S_IFREG | 0666, .st_nlink = 1};
}

static struct fuse_entry_param entry(void)
{
	return (struct fuse_entry_param){.ino = 2, .attr = attributes(2)};
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param found = entry();
	(void)parent, (void)name;
	fuse_reply_entry(request, &found);
}

static void do_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat now = attributes(ino);
	(void)info;
	fuse_reply_attr(request, &now, 1);
}

static void do_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *wanted, int which, struct fuse_file_info *info)
{
	(void)wanted, (void)which;
	do_getattr(request, ino, info);
}

static void do_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	info->direct_io = !cached; /* as sbb-client opens what is only written */
	fuse_reply_open(request, info);
}

static void do_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *info)
{
	struct fuse_entry_param made = entry();
	(void)parent, (void)name, (void)mode;
	info->direct_io = !cached;
	fuse_reply_create(request, &made, info);
}

static void do_write(fuse_req_t request, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		     struct fuse_file_info *info)
{
	(void)ino, (void)bytes, (void)offset, (void)info;
	fuse_reply_write(request, size);
}

static void do_nothing(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino, (void)info;
	fuse_reply_err(request, 0);
}

int main(int count, char **words)
{
	struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops operations = {
		.init = do_init, .lookup = do_lookup, .getattr = do_getattr, .setattr = do_setattr, .open = do_open, .create = do_create,
		.write = do_write, .flush = do_nothing, .release = do_nothing,
	};
	cached = count == 3 && strcmp(words[2], "cached") == 0;
	if (count != (cached ? 3 : 2) || fuse_opt_add_arg(&arguments, words[0]))
		return 2;
	struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
	if (!session || fuse_session_mount(session, words[1]))
		return 1;
	int failed = fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return failed != 0;
}
