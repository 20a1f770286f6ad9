/* What the parts of spank_ebb.so share. docs/spank.md tells how they work together. */
#ifndef EBB_SPANK_H
#define EBB_SPANK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#pragma GCC diagnostic error "-Wunused-parameter"

#define EBB_TEXT 1024   /* longest message for a user, one line */
#define EBB_PATH 512
#define EBB_MOUNT_SECONDS 60 /* how long a job's mounts may take before its tasks are told why not */

/* Where the plugin keeps and finds things; plugstack.conf may say otherwise (`run=DIR config=FILE client=FILE`). */
typedef struct {
	char run[EBB_PATH];    /* /run/ebb */
	char config[EBB_PATH]; /* /etc/ebb/ebb.conf */
	char client[EBB_PATH]; /* /usr/libexec/ebb/sbb-client */
	int stale_seconds;     /* age at which a pin without processes is swept away */
} ebb_settings;

/* A step as root knows it; only `ticket` comes from the user's environment. */
typedef struct {
	uint32_t job;
	uint32_t uid;
	uint32_t gid;
	const uint32_t *groups;
	int group_count;
	const char *ticket;
	const char *config;
} ebb_step;

/* What the Python callback decides about a step. */
enum ebb_kind { EBB_REFUSE = -1, EBB_NOTHING = 0, EBB_MOUNT = 1 };

typedef struct {
	char *data;    /* a plan (EBB_MOUNT) or a message (EBB_REFUSE), malloc'ed */
	size_t size;
	char *ticket;  /* a ticket that the orchestrator gave, malloc'ed, or NULL */
} ebb_answer;

/*
 * The only symbol of spank_ebb_python.so (host_python.c) that spank_ebb.so calls: start Python at the first call, and
 * let it decide. An ebb_kind; text has the message of EBB_REFUSE.
 */
typedef int ebb_decide_function(ebb_step *step, ebb_answer *answer, char *text, size_t size);
ebb_decide_function ebb_decide;

/* ask.c: load that file if it is not there yet, and call it with SIGPIPE blocked. */
int ebb_ask(ebb_step *step, ebb_answer *answer, char *text, size_t size);

/* For the Python callback. */
void ebb_answer_data(ebb_answer *answer, const char *data, size_t size);
void ebb_answer_ticket(ebb_answer *answer, const char *ticket);

/* user.c: act with a user's rights for a moment; only where no other thread runs in the process. */
typedef struct {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	int group_count;
} ebb_user;

int ebb_become(const ebb_user *user, ebb_user *before);
void ebb_return(ebb_user *before);

/* plan.c: the wire between the Python callback and the C that mounts; also kept beside the pin. */
typedef struct {
	const char *name;    /* of the buffer */
	const char *kind;    /* "bind", "nfs4" or "sbb" */
	const char *source;  /* of sbb: the client's configuration */
	const char *options; /* of nfs4; of sbb: the job's token, in hexadecimal digits */
	const char *path;    /* as the user asked */
} ebb_mount;

typedef struct {
	char *memory;
	ebb_user user;
	const char **prefixes;
	int prefix_count;
	ebb_mount *mounts;
	int mount_count;
} ebb_plan;

int ebb_plan_read(ebb_plan *plan, const char *data, size_t size);
void ebb_plan_free(ebb_plan *plan);

/*
 * mounts.c: make a plan's mounts in the calling process's mount namespace. report gets one line a mount. home: the
 * node's own mount namespace, where the processes behind the mounts live.
 */
int ebb_mounts_make(const ebb_plan *plan, const ebb_settings *settings, int home, char *report, size_t report_size,
		    char *text, size_t size);

/* sbb.c */
int ebb_sbb_mount(const ebb_plan *plan, const ebb_mount *wanted, const ebb_settings *settings, int home, int target,
		  const char *stage, char *text, size_t size);
int ebb_sbb_check(const ebb_plan *plan, const ebb_mount *wanted, int pipe, const char *real, char *text, size_t size);

/* address.c: 1: this node's own, 0: another's, -1: unknown. numeric: the address as numbers. */
int ebb_address_look_up(const char *name, char *numeric, size_t size);

/* files.c */
int ebb_file_write(const char *path, const char *data, size_t size);
ssize_t ebb_file_read(const char *path, char **data);
int ebb_lock(const char *path, int seconds);

/* pins.c: the pins of the jobs' mount namespaces, a file each in <run>/ns. */
enum ebb_pin_state { EBB_PIN_ABSENT, EBB_PIN_NAMESPACE, EBB_PIN_TEXT };

void ebb_pin_path(const ebb_settings *settings, uint32_t job, const char *suffix, char *path, size_t size);
enum ebb_pin_state ebb_pin_look(int fd);
int ebb_pins_prepare(const ebb_settings *settings, char *text, size_t size);
void ebb_pin_remove(const ebb_settings *settings, uint32_t job);
void ebb_pins_sweep(const ebb_settings *settings);

/* table.c: the mounts that this process sees. */
typedef struct {
	FILE *file;
	char *line;
	size_t room;
} ebb_table;

typedef struct {
	unsigned major; /* of the device */
	unsigned minor;
	const char *path; /* any bytes of a user's may be in it */
} ebb_mounted;

int ebb_table_open(ebb_table *table);
int ebb_table_next(ebb_table *table, ebb_mounted *mounted);
void ebb_table_close(ebb_table *table);
void ebb_unescape(char *text);
int ebb_escape(const char *path, char *escaped, size_t size);

/* leave.c */
int ebb_leave_run_directory(const char *run, char *text, size_t size);
int ebb_open_folder(int at, const char *path, uint64_t resolve);

/* namespace.c */
int ebb_namespace_make(const ebb_settings *settings, uint32_t job, const ebb_plan *plan, int lock, char *text,
		       size_t size);
/* 0: nothing to join, 1: joined, -1: text says why the program must not run. */
int ebb_namespace_join(const ebb_settings *settings, uint32_t job, int expected, const ebb_user *user,
		       const char *directory, char *text, size_t size);

/* child.c: a child that runs `work` and writes text: read until its end or the deadline. 0 if it ended well. */
int ebb_child_run(int (*work)(int out, void *argument), void *argument, int seconds, char *text, size_t size);

/* iostat.c */
void ebb_io_begin(const ebb_settings *settings, uint32_t job, uint32_t step);
int ebb_io_task_ended(const ebb_settings *settings, uint32_t job, uint32_t step, uint32_t local_tasks);
int ebb_io_summary(const ebb_settings *settings, uint32_t job, uint32_t step, char *text, size_t size);

#endif
