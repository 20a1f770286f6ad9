/* sbbd --config PATH --key-fd N [--allow-root]: one server of a smart burst buffer. docs/sbb.md says how it works. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct server S = {.count = 1, .stripe = 1 << 20, .drain_delay = 5000000000,
		   .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void set_text(char **field, const char *value)
{
	free(*field);
	*field = must_copy(value);
}

static void setting(const char *key, const char *value)
{
	static const struct {
		const char *key;
		char **text;
		uint64_t *number;
	} known[] = {
		{"sid", &S.sid, NULL}, {"listen", &S.listen, NULL}, {"unix", &S.unix_path, NULL},
		{"control", &S.control, NULL}, {"store", &S.store, NULL}, {"memory", NULL, &S.memory},
		{"store_size", NULL, &S.store_size}, {"stripe", NULL, &S.stripe}, {"drain_rate", NULL, &S.drain_rate},
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(key, known[i].key) == 0) {
			if (known[i].text)
				set_text(known[i].text, value);
			else
				*known[i].number = setting_number(key, value);
			return;
		}
	if (strcmp(key, "index") == 0)
		S.index = (uint32_t)setting_number(key, value);
	else if (strcmp(key, "count") == 0)
		S.count = (uint32_t)setting_number(key, value);
	else if (strcmp(key, "drain_delay") == 0)
		S.drain_delay = (int64_t)(atof(value) * 1e9);
	else if (strcmp(key, "sync") == 0)
		S.sync_target = strcmp(value, "target") == 0;
	else if (strcmp(key, "target") == 0 && S.target_count < MAX_TARGETS)
		S.targets[S.target_count++].path = must_copy(value);
	else
		die("configuration: %s=%s is not known", key, value);
}

static void check(void)
{
	if (!S.sid || !S.control || !S.memory || !S.target_count || (!S.listen && !S.unix_path))
		die("configuration: sid, control, memory, target, and listen or unix must be there");
	if (S.index >= S.count || S.count > MAX_SERVERS)
		die("configuration: index=%u count=%u: the index is below the count, which is at most %d", S.index,
		    S.count, MAX_SERVERS);
	if (S.stripe < BLOCK || S.stripe % BLOCK)
		die("configuration: stripe=%llu is no multiple of %u", (unsigned long long)S.stripe, BLOCK);
	if (S.store && !*S.store)
		S.store = NULL;
	if (S.store && S.store_size < 64 << 20)
		die("configuration: store_size=%llu is too little: 64 MiB or more", (unsigned long long)S.store_size);
	if (geteuid() == 0 && !S.allow_root)
		die("this runs as the buffer's owner, never as root");
}

int main(int count, char **words)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"key-fd", required_argument, NULL, 'k'},
						{"allow-root", no_argument, NULL, 'r'},
						{0}};
	const char *config = NULL;
	int option, key = -1;
	while ((option = getopt_long(count, words, "", options, NULL)) != -1) {
		if (option == 'c')
			config = optarg;
		else if (option == 'k')
			key = atoi(optarg);
		else if (option == 'r')
			S.allow_root = true;
		else
			return 2;
	}
	if (!config || key < 0)
		die("usage: sbbd --config PATH --key-fd N [--allow-root]");
	signal(SIGPIPE, SIG_IGN);
	int fd = open(config, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s: %s", config, strerror(errno));
	read_settings(fd, setting);
	check();
	read_key(key, S.key);
	random_bytes(&S.epoch, sizeof S.epoch);
	files_start();
	memory_start();
	record_start();
	if (has_store())
		store_start();
	drain_start();
	sessions_start();
	say("serving %s as %u of %u, port %d", S.sid, S.index, S.count, S.port);
	control_run();
}
