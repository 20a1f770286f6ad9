/*
 * sbb-client --config-fd N --key-fd M --fuse-fd K --target-fd T: shows one target of a buffer in a job. docs/sbb.md says how it
 * works. It runs as the owner; who mounted /dev/fuse over the target started it, and it ends when that is unmounted.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 16
#define SPIN 30000 /* ns */

struct client C = {.stripe = 1 << 20, .patience = 600};
_Thread_local char *current_buffer;

static void servers(const char *value)
{
	char *copy = must_copy(value), *rest = copy, *address;
	while ((address = strsep(&rest, ",")))
		if (*address && C.count < MAX_SERVERS)
			C.addresses[C.count++] = must_copy(address);
	free(copy);
}

static void setting(const char *key, const char *value)
{
	if (strcmp(key, "sid") == 0)
		C.sid = must_copy(value);
	else if (strcmp(key, "job") == 0)
		C.job = setting_number(key, value);
	else if (strcmp(key, "exp") == 0)
		C.expires = setting_number(key, value);
	else if (strcmp(key, "servers") == 0)
		servers(value);
	else if (strncmp(key, "unix.", 5) == 0 && setting_number(key, key + 5) < MAX_SERVERS) {
		char address[200];
		snprintf(address, sizeof address, "unix:%s", value);
		C.local[atoi(key + 5)] = must_copy(address);
	} else if (strcmp(key, "stripe") == 0)
		C.stripe = setting_number(key, value);
	else if (strcmp(key, "target_index") == 0)
		C.target_index = (uint32_t)setting_number(key, value);
	else if (strcmp(key, "target") == 0)
		C.target = must_copy(value);
	else if (strcmp(key, "sync") == 0)
		C.sync_target = strcmp(value, "target") == 0;
	else if (strcmp(key, "patience") == 0)
		C.patience = (int)setting_number(key, value);
	else
		die("configuration: %s=%s is not known", key, value);
}

/*
 * One thread at a time, the leader, takes requests from the kernel. It works on one that needs no waiting itself, and leaves
 * the lead to another thread before it waits for anything. While requests come fast it looks for the next one without
 * going to sleep: waking up costs more than a small write does.
 */
static pthread_mutex_t lead_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t lead_free = PTHREAD_COND_INITIALIZER;
static bool lead_taken;
static _Thread_local bool leads;

static void take_lead(void)
{
	if (leads)
		return;
	pthread_mutex_lock(&lead_lock);
	while (lead_taken)
		pthread_cond_wait(&lead_free, &lead_lock);
	lead_taken = leads = true;
	pthread_mutex_unlock(&lead_lock);
}

void leave_lead(void)
{
	if (!leads)
		return;
	pthread_mutex_lock(&lead_lock);
	lead_taken = leads = false;
	pthread_cond_signal(&lead_free);
	pthread_mutex_unlock(&lead_lock);
}

bool leading(void)
{
	return leads;
}

#ifdef __SANITIZE_THREAD__
void kernel_order(void)
{
	static int turn;
	__atomic_fetch_add(&turn, 1, __ATOMIC_ACQ_REL);
}
#endif

static bool never_waits(const char *request)
{
	const struct fuse_in_header *header = (const struct fuse_in_header *)request;
	return header->opcode == FUSE_WRITE || header->opcode == FUSE_FLUSH || header->opcode == FUSE_FORGET ||
	       header->opcode == FUSE_BATCH_FORGET;
}

static int take_request(struct fuse_buf *request)
{
	static bool large; /* the last one was: its bytes are being sent, by whom this thread would take the processor from */
	int64_t until = large ? 0 : monotonic_ns() + SPIN;
	struct pollfd device = {.fd = fuse_session_fd(C.fuse), .events = POLLIN};
	for (;;) {
		int size = fuse_session_receive_buf(C.fuse, request);
		if (size != -EAGAIN) {
			large = size >= LARGE;
			return size;
		}
		if (monotonic_ns() > until) {
			poll(&device, 1, -1);
			until = 0;
		}
	}
}

static void *work(void *unused)
{
	struct fuse_buf request = {0};
	(void)unused;
	for (;;) {
		if (!current_buffer)
			current_buffer = buffer_take();
		request.mem = current_buffer;
		take_lead();
		int size = take_request(&request);
		if (size == -EINTR)
			continue;
		if (size <= 0 || fuse_session_exited(C.fuse))
			break;
		kernel_order();
		if (!never_waits(current_buffer))
			leave_lead();
		fuse_session_process_buf(C.fuse, &request);
		nodes_unpin();
	}
	fuse_session_exit(C.fuse);
	leave_lead();
	return NULL;
}

static void serve(void)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			die("no thread");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

int main(int count, char **words)
{
	static const struct option options[] = {{"config-fd", required_argument, NULL, 'c'},
						{"key-fd", required_argument, NULL, 'k'},
						{"fuse-fd", required_argument, NULL, 'f'},
						{"target-fd", required_argument, NULL, 't'},
						{0}};
	int option, config = -1, key = -1, device = -1;
	struct fuse_lowlevel_ops operations = {0};
	char *arguments[] = {words[0], NULL}, place[32];
	struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
	C.target_fd = -1;
	while ((option = getopt_long(count, words, "", options, NULL)) != -1) {
		if (option == 'c')
			config = atoi(optarg);
		else if (option == 'k')
			key = atoi(optarg);
		else if (option == 'f')
			device = atoi(optarg);
		else if (option == 't')
			C.target_fd = atoi(optarg);
		else
			return 2;
	}
	if (config < 0 || key < 0 || device < 0 || C.target_fd < 0)
		die("usage: sbb-client --config-fd N --key-fd M --fuse-fd K --target-fd T");
	read_settings(config, setting);
	read_key(key, C.key);
	if (!C.sid || !C.count)
		die("configuration: sid and servers must be there");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN); /* the data of programs that still write are at stake: unmounting ends it */
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of that call */
	umask(0);
	C.file_limit = raise_file_limit();
	nodes_start();
	names_operations(&operations);
	io_operations(&operations);
	C.fuse = fuse_session_new(&args, &operations, sizeof operations, NULL);
	snprintf(place, sizeof place, "/dev/fd/%d", device);
	if (!C.fuse || fuse_session_mount(C.fuse, place))
		die("descriptor %d is no FUSE mount", device);
	fcntl(device, F_SETFL, fcntl(device, F_GETFL) | O_NONBLOCK);
	rpc_start();
	say("showing %s of %s, %u servers", C.target ? C.target : "a target", C.sid, C.count);
	serve();
	nodes_each(close_at_end, NULL);
	rpc_finish();
	say("unmounted");
	return 0;
}
