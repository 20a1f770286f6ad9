/* The control socket: one request line, one answer line of JSON. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_NAMES = 100 }; /* in a status, which is asked for every second or two; `list` has them all */

static const char *state_name(void)
{
	bool failing = false;
	for (const struct file *file = S.dirty_first; file && !failing; file = file->after)
		failing = file->error != NULL;
	if (S.state == DRAINED)
		return "drained";
	if (S.state == DRAINING)
		return failing ? "failed" : "draining";
	return "running";
}

static void file_name(FILE *out, const struct file *file)
{
	char *path = must_alloc(strlen(S.targets[file->target].path) + strlen(file->path) + 2);
	sprintf(path, "%s/%s", S.targets[file->target].path, file->path);
	json_string(out, path);
	free(path);
}

static void lost(FILE *out, uint32_t most)
{
	fputs("\"lost\":[", out);
	for (uint32_t i = 0; i < S.lost_count && i < most; i++) {
		fputs(i ? "," : "", out);
		json_string(out, S.lost[i]);
	}
	fputc(']', out);
}

static void status(FILE *out)
{
	uint32_t errors = 0;
	fprintf(out, "{\"state\":\"%s\",\"index\":%u,\"count\":%u,\"port\":%d,\"clients\":%u,\"dirty\":%llu,",
		state_name(), S.index, S.count, S.port, S.client_count, (unsigned long long)S.dirty_bytes);
	fprintf(out, "\"memory_used\":%llu,\"memory\":%llu,\"store_used\":%llu,\"store_size\":%llu,\"files\":%u,",
		(unsigned long long)memory_used(), (unsigned long long)S.memory,
		(unsigned long long)(has_store() ? store_used() : 0), (unsigned long long)S.store_size, S.file_count);
	fprintf(out, "\"dirty_files\":%u,\"drained\":%llu,\"drain_rate\":%.0f,\"errors\":[", S.dirty_files,
		(unsigned long long)S.drained_bytes, S.measured_rate);
	for (const struct file *file = S.dirty_first; file && errors < MOST_NAMES; file = file->after)
		if (file->error) {
			fprintf(out, "%s{\"path\":", errors++ ? "," : "");
			file_name(out, file);
			fputs(",\"error\":", out);
			json_string(out, file->error);
			fputc('}', out);
		}
	fprintf(out, "],\"lost_files\":%u,", S.lost_count);
	lost(out, MOST_NAMES);
	fputc('}', out);
}

static void list(FILE *out)
{
	const char *comma = "";
	fputs("{\"files\":[", out);
	for (const struct file *file = S.dirty_first; file; file = file->after) {
		fprintf(out, "%s{\"path\":", comma);
		file_name(out, file);
		fprintf(out, ",\"dirty\":%llu,\"error\":", (unsigned long long)file->bytes);
		if (file->error)
			json_string(out, file->error);
		else
			fputs("null", out);
		fputc('}', out);
		comma = ",";
	}
	fputs("],", out);
	lost(out, S.lost_count);
	fputc('}', out);
}

static bool is_named(const struct file *file, const char *path)
{
	const char *target = S.targets[file->target].path;
	size_t length = strlen(target);
	return strncmp(path, target, length) == 0 && path[length] == '/' && strcmp(path + length + 1, file->path) == 0;
}

static void flush(FILE *out, const char *path)
{
	struct file *file;
	int error = 0;
	uint32_t errors = 0;
	if (*path) {
		for (file = S.dirty_first; file && !is_named(file, path); file = file->after)
			;
		error = file ? drain_wait(file) : 0; /* not dirty here: done */
	} else {
		for (file = S.dirty_first; file; file = file->after) {
			file->wanted = file->changes;
			file->retry_at = 0;
		}
		while (S.dirty_first && !errors) {
			pthread_cond_broadcast(&S.changed);
			pthread_cond_wait(&S.changed, &S.lock);
			bool waits = false;
			for (file = S.dirty_first; file; file = file->after) {
				errors += file_is_wanted(file) && file->error && file->retry_at > monotonic_ns();
				waits |= file_is_wanted(file) && !file->orphan;
			}
			if (!waits)
				break;
		}
		error = errors ? EIO : 0;
	}
	fprintf(out, "{\"ok\":%s}", error ? "false" : "true");
}

static void *finish_drain(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&S.lock);
	while (S.dirty_first) {
		struct file *file = S.dirty_first;
		while (file && file->orphan)
			file = file->after;
		if (!file)
			break; /* only files that nobody can name any more */
		pthread_cond_broadcast(&S.changed);
		pthread_cond_wait(&S.changed, &S.lock);
	}
	int failed = 0;
	for (uint32_t i = 0; i < S.target_count; i++) {
		pthread_mutex_unlock(&S.lock);
		int fd = open(S.targets[i].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && syncfs(fd))
			failed = errno;
		if (fd >= 0)
			close(fd);
		pthread_mutex_lock(&S.lock);
	}
	if (failed)
		say("syncing the targets: %s", strerror(failed));
	S.state = DRAINED;
	pthread_mutex_unlock(&S.lock);
	return NULL;
}

static void drain_all(FILE *out)
{
	pthread_t thread;
	if (S.state == RUNNING) {
		S.state = DRAINING;
		for (struct file *file = S.dirty_first; file; file = file->after)
			file->retry_at = 0;
		if (pthread_create(&thread, NULL, finish_drain, NULL) == 0)
			pthread_detach(thread);
		pthread_cond_broadcast(&S.changed);
	}
	status(out);
}

static bool stop(FILE *out, bool discard)
{
	uint32_t files = 0; /* what was unlinked is nobody's loss */
	for (const struct file *file = S.dirty_first; file; file = file->after)
		files += !file->orphan;
	if (files && !discard) {
		fprintf(out, "{\"error\":\"%u files have bytes that are nowhere else: drain first, or stop discard\"}", files);
		return false;
	}
	fputs("{\"ok\":true}", out);
	return true;
}

/* True: the server is to end. */
static bool work_on(char *line, FILE *out)
{
	bool ends = false;
	line[strcspn(line, "\r\n")] = 0;
	char *word = strchr(line, ' ');
	const char *rest = word ? word + 1 : "";
	if (word)
		*word = 0;
	pthread_mutex_lock(&S.lock);
	if (strcmp(line, "status") == 0)
		status(out);
	else if (strcmp(line, "list") == 0)
		list(out);
	else if (strcmp(line, "flush") == 0)
		flush(out, rest);
	else if (strcmp(line, "drain") == 0)
		drain_all(out);
	else if (strcmp(line, "peers") == 0)
		fputs("{\"ok\":true}", out); /* servers do not need each other */
	else if (strcmp(line, "stop") == 0)
		ends = stop(out, strcmp(rest, "discard") == 0);
	else
		fputs("{\"error\":\"status, list, flush [PATH], drain, stop [discard]\"}", out);
	if (ends && strcmp(rest, "discard") == 0)
		say("stopped; %u files with %llu bytes were discarded", S.dirty_files,
		    (unsigned long long)S.dirty_bytes);
	pthread_mutex_unlock(&S.lock);
	fputc('\n', out);
	return ends;
}

static void *converse(void *argument)
{
	int fd = (int)(intptr_t)argument;
	FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
	char *line = NULL;
	size_t room = 0;
	while (in && out && getline(&line, &room, in) > 0) {
		bool ends = work_on(line, out);
		fflush(out);
		if (ends)
			_exit(0);
	}
	free(line);
	if (in)
		fclose(in);
	if (out)
		fclose(out);
	return NULL;
}

void control_run(void)
{
	char address[200];
	pthread_t thread;
	snprintf(address, sizeof address, "unix:%s", S.control);
	int listener = link_listen(address, NULL);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0) {
			usleep(10000); /* out of descriptors: until one comes free */
			continue;
		}
		if (pthread_create(&thread, NULL, converse, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
		else
			close(fd);
	}
}
