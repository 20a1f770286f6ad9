/* What the parts of sbb-client share. */
#ifndef SBB_CLIENT_H
#define SBB_CLIENT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "common.h"
#include "protocol.h"
#include "transport.h"

#define DATA_CONNECTIONS 2
#define LARGE 65536 /* bytes: who writes as many does not gather, and its bytes may take a while to go */
#define CONNECTIONS (3 + DATA_CONNECTIONS)
#define META 1 /* 0 is for callbacks */
#define SLOW 2 /* what may take long, so that nothing else waits behind it */
#define DATA 3

/* A file, directory or link of the target, as long as the kernel knows it. */
struct node {
	struct node *next;
	uint64_t ino;
	dev_t device;
	int64_t born;
	int fd;        /* O_PATH: keeps the inode, finds it after any rename; -1: closed to have room for others */
	char *path;    /* below the target, when fd is closed */
	uint32_t pins; /* requests that work with it: fd stays open */
	mode_t type;
	bool plain;    /* not on the target's own file system: read and written directly */
	uint64_t lookups;
	bool forgotten; /* freed by the last request that has it pinned */
	pthread_mutex_t lock;
	pthread_cond_t settled;
	uint32_t flying; /* writes that no server has acknowledged yet */
	int error;       /* of such a write: told at the next fsync, close or write */
	bool untouched;  /* no server has anything of it, as long as nobody else can write it */
	uint64_t touches; /* counts what may end that */
	uint64_t looked; /* the drains after which the target's file was looked at again */
	pthread_mutex_t order; /* held while opens goes from or to 0: the home hears of it in the same order */
	bool wrote;      /* since the last flush */
	bool written;    /* since it was opened: a server that lost what it had may have lost some of it */
	int64_t mtime;   /* of the last write, ns; 0: flushed or set by the program */
	uint32_t opens;
	uint64_t version; /* mtime of the target's file when it was opened */
	uint8_t announced[MAX_SERVERS]; /* which connections have sent its path, a bit each */
};

struct handle {
	struct node *node;
	int fd; /* of the target's file: what the program may do with it was checked by opening it */
};

struct client {
	char *sid, *target;
	uint64_t job, expires, stripe;
	uint32_t target_index, count;
	unsigned char key[KEY_SIZE];
	int target_fd;
	uint64_t id;
	bool sync_target;
	int patience; /* seconds to wait for a server that may come back with all it had */
	char *addresses[MAX_SERVERS], *local[MAX_SERVERS];
	atomic_bool alone; /* no other client: names and attributes may be kept a moment */
	atomic_bool broke; /* the connection that would say otherwise was away once: never again alone */
	struct fuse_session *fuse;
	struct node root;
	uint64_t file_limit;
};
extern struct client C;

/* buffers.c */
void buffers_share(void);               /* from now on they are memory that servers may map; before the first is taken */
bool buffers_offer(struct link *link);  /* to a server that expects it; false when the link is broken */
char *buffer_take(void);                /* room for one FUSE request */
void buffer_give(char *buffer);

/* rpc.c */
struct wait {
	pthread_mutex_t lock;
	pthread_cond_t done;
	uint32_t left;
};

struct request {
	struct request *next;
	struct message message, answer;
	struct iovec payload;
	char *into; /* where the bytes of an answer go */
	uint32_t into_size;
	struct wait *wait; /* NULL: a write behind its program's back */
	struct node *node;
	char *buffer; /* given back when it is done */
	uint32_t room;
};

void rpc_start(void); /* connects; dies if that fails */
void rpc_finish(void); /* waits until all that is written behind is there */
/* Sends and waits. 0 or errno; answer in message. */
int call(uint32_t server, struct message *message, const void *payload);
/* To all servers; node: they are told its path first. The first error. */
void post(uint32_t server, const struct message *message); /* without waiting for the answer */
int call_all(struct message *message, struct node *node, const void *payload, struct message *answers);
void begin(struct request *requests, uint32_t count, struct wait *wait); /* data requests, each to message.. server */
int finish(struct request *requests, uint32_t count, struct wait *wait);
/* Waits until so many bytes may be written behind; they count from now on. The lead may be gone afterwards. */
void wait_for_window(uint32_t size);
/* After that. Takes the bytes, or the whole buffer that they are in (then *buffer becomes NULL and hurry() is due). */
void write_behind(struct node *node, uint64_t offset, const char *bytes, uint32_t size, int64_t mtime, char **buffer);
void settle(struct node *node); /* waits until all its writes are acknowledged */
void hurry(void);               /* what was written goes now, not in a moment */
void forget_pages(void); /* after a break, in which nobody said what others changed */
void callback_invalidate(const struct message *what);
void node_touched(struct node *node); /* with its lock: servers may have something of it from now on */
bool has_names(int fd);

/* nodes.c */
void nodes_start(void);
struct node *node_of(fuse_ino_t number); /* pinned until nodes_unpin() */
struct node *node_enter(int fd, const struct statx *now); /* takes fd; counts a lookup; pinned */
void nodes_unpin(void); /* at the end of a thread's request */
void nodes_moved(const char *old, const char *new); /* a directory: what lies below has another path now */
struct node **nodes_open(uint32_t *count); /* those that are open; counts a lookup each; to be freed */
struct node *node_find(uint64_t ino);                     /* counts a lookup, or NULL */
void node_forget(struct node *node, uint64_t lookups);
void nodes_each(void (*visit)(struct node *node, void *argument), void *argument);
char *node_path(const struct node *node); /* below the target, to be freed */
double keep_seconds(void); /* how long the kernel may keep names and attributes */
int node_attributes(struct node *node, struct stat *now); /* as all servers and the target have it; errno */
struct message about(const struct node *node, enum op op);
void self_path(const struct node *node, char path[32]); /* /proc/self/fd/N */

/* names.c, io.c: what the kernel asks for */
void names_operations(struct fuse_lowlevel_ops *operations);
void io_operations(struct fuse_lowlevel_ops *operations);
int truncate_node(struct node *node, uint64_t size, int fd);
int flush_node(struct node *node, uint16_t flags);
struct handle *handle_open(struct node *node, int fd, struct fuse_file_info *info, bool fresh);
void handle_close(struct handle *handle);
void close_at_end(struct node *node, void *unused);
void leave_lead(void); /* sbb_client.c: before a thread waits for anything */
bool leading(void);    /* no other thread takes requests from the kernel before this one is done */
extern _Thread_local char *current_buffer; /* of the request that this thread works on */

/* The kernel keeps requests in order (release after open), which the thread sanitizer does not see by itself. */
#ifdef __SANITIZE_THREAD__
void kernel_order(void);
#define fuse_reply_err(...) (kernel_order(), fuse_reply_err(__VA_ARGS__))
#define fuse_reply_entry(...) (kernel_order(), fuse_reply_entry(__VA_ARGS__))
#define fuse_reply_create(...) (kernel_order(), fuse_reply_create(__VA_ARGS__))
#define fuse_reply_open(...) (kernel_order(), fuse_reply_open(__VA_ARGS__))
#define fuse_reply_attr(...) (kernel_order(), fuse_reply_attr(__VA_ARGS__))
#define fuse_reply_write(...) (kernel_order(), fuse_reply_write(__VA_ARGS__))
#define fuse_reply_buf(...) (kernel_order(), fuse_reply_buf(__VA_ARGS__))
#else
static inline void kernel_order(void)
{
}
#endif

#endif
