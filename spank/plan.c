/*
 * A plan: what to mount for a job, as the Python callback decided it. Fields, each ended by a NUL:
 *   "ebb-plan-1", uid, gid, number of groups, the groups, number of prefixes, the prefixes, number of mounts,
 *   and for each mount: name, kind, source, options, path.
 * spank/plan.py writes it. It is kept beside the pin, for hooks of the same step that run in other processes.
 */
#include "ebb_spank.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "ebb-plan-1"
#define MOST 100000

typedef struct {
	const char *next;
	const char *end;
	int bad;
} cursor;

static const char *text_field(cursor *c)
{
	const char *field = c->next;
	const char *nul = c->bad ? NULL : memchr(field, '\0', (size_t)(c->end - field));

	if (!nul) {
		c->bad = 1;
		return "";
	}
	c->next = nul + 1;
	return field;
}

static uint32_t number_field(cursor *c)
{
	const char *field = text_field(c);
	char *rest = NULL;
	unsigned long long value;

	errno = 0;
	value = strtoull(field, &rest, 10);
	if (*field < '0' || *field > '9' || *rest || errno || value > UINT32_MAX)
		c->bad = 1;
	return c->bad ? 0 : (uint32_t)value;
}

static int count_field(cursor *c)
{
	uint32_t count = number_field(c);

	if (count > MOST)
		c->bad = 1;
	return c->bad ? 0 : (int)count;
}

static void fill(ebb_plan *plan, cursor *c)
{
	int i;

	if (strcmp(text_field(c), MAGIC) != 0)
		c->bad = 1;
	plan->user.uid = number_field(c);
	plan->user.gid = number_field(c);
	plan->user.group_count = count_field(c);
	plan->user.groups = calloc((size_t)plan->user.group_count + 1, sizeof(gid_t));
	for (i = 0; plan->user.groups && i < plan->user.group_count; i++)
		plan->user.groups[i] = number_field(c);
	plan->prefix_count = count_field(c);
	plan->prefixes = calloc((size_t)plan->prefix_count + 1, sizeof(char *));
	for (i = 0; plan->prefixes && i < plan->prefix_count; i++)
		plan->prefixes[i] = text_field(c);
	plan->mount_count = count_field(c);
	plan->mounts = calloc((size_t)plan->mount_count + 1, sizeof(ebb_mount));
	for (i = 0; plan->mounts && i < plan->mount_count; i++) {
		ebb_mount *mount = &plan->mounts[i];
		mount->name = text_field(c);
		mount->kind = text_field(c);
		mount->source = text_field(c);
		mount->options = text_field(c);
		mount->path = text_field(c);
	}
}

/* 0, and ebb_plan_free is owed; -1 for bytes that are no plan. */
int ebb_plan_read(ebb_plan *plan, const char *data, size_t size)
{
	cursor c;

	memset(plan, 0, sizeof(*plan));
	plan->memory = malloc(size + 1);
	if (!plan->memory)
		return -1;
	memcpy(plan->memory, data, size);
	c = (cursor){plan->memory, plan->memory + size, 0};
	fill(plan, &c);
	if (c.bad || c.next != c.end || !plan->user.groups || !plan->prefixes || !plan->mounts) {
		ebb_plan_free(plan);
		return -1;
	}
	return 0;
}

void ebb_plan_free(ebb_plan *plan)
{
	free(plan->memory);
	free(plan->user.groups);
	free(plan->prefixes);
	free(plan->mounts);
	memset(plan, 0, sizeof(*plan));
}
