/*
 * The hooks that Slurm calls. All of them are C; Python is entered in one place, the first step of a job that speaks of
 * a buffer. Which hook runs where, and as whom, stands in docs/spank.md.
 *
 * No state is kept between hooks but in the step's environment and in root's files: under psslurm the hooks of one
 * step run in different processes. Results of init and init_post_opt are never failures: a plugin that fails there
 * drains the node (22.05). What went wrong is written where the pin would be, and stops the tasks.
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <slurm/slurm_errno.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

SPANK_PLUGIN(ebb, 1)

/*
 * The ticket's variable. Names that begin with SLURM are what `srun --export=NONE` and `--export=LIST` let through, in
 * a batch script with --export=NONE too; SPANK_... are not (seen on 22.05).
 */
#define TICKET "SLURM_EBB_TICKET"
#define IO_VARIABLE "SLURM_EBB_IOINSTRUMENTATION"
#define LARGEST_TICKET (128 * 1024)

static int on_io_option(int value, const char *argument, int remote);

static struct spank_option io_option = {
	"ioinstrumentation", "yes|no", "log IOI_* variables and an I/O summary of the job's burst buffers", 1, 0,
	on_io_option,
};
static int io_asked = -1; /* as given to this process: 1 yes, 0 no, -1 not given */

/*
 * Paths, variables and arguments are users' words: a newline in one would begin a line of the log that is nobody's, and
 * an escape would act on the terminal of whoever reads it.
 */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 127)
			*text = '?';
}

static int on_io_option(int value, const char *argument, int remote)
{
	char shown[64];

	(void)value;
	(void)remote;
	if (argument && strcasecmp(argument, "yes") == 0) {
		io_asked = 1;
	} else if (argument && strcasecmp(argument, "no") == 0) {
		io_asked = 0;
	} else {
		snprintf(shown, sizeof(shown), "%s", argument ? argument : "");
		make_printable(shown);
		slurm_error("ebb: --ioinstrumentation=%s: must be yes or no", shown);
		return -1;
	}
	return 0;
}

static ebb_settings read_settings(int count, char **arguments)
{
	ebb_settings settings = {"/run/ebb", "/etc/ebb/ebb.conf", "/usr/libexec/ebb/sbb-client", 600};
	int i;

	for (i = 0; i < count; i++) {
		if (strncmp(arguments[i], "run=", 4) == 0)
			snprintf(settings.run, sizeof(settings.run), "%s", arguments[i] + 4);
		else if (strncmp(arguments[i], "config=", 7) == 0)
			snprintf(settings.config, sizeof(settings.config), "%s", arguments[i] + 7);
		else if (strncmp(arguments[i], "client=", 7) == 0)
			snprintf(settings.client, sizeof(settings.client), "%s", arguments[i] + 7);
		else if (strncmp(arguments[i], "stale=", 6) == 0)
			settings.stale_seconds = atoi(arguments[i] + 6);
		else
			slurm_error("ebb: plugstack.conf: `%s` is no argument of spank_ebb.so; known: run=DIR "
				    "config=FILE client=FILE stale=SECONDS", arguments[i]);
	}
	return settings;
}

/* A variable of the step, malloc'ed; NULL if it is not there. */
static char *step_variable(spank_t spank, const char *name)
{
	char probe[2], *value;
	spank_err_t found = spank_getenv(spank, name, probe, sizeof(probe));

	if (found != ESPANK_SUCCESS && found != ESPANK_NOSPACE)
		return NULL;
	value = malloc(LARGEST_TICKET);
	if (value && spank_getenv(spank, name, value, LARGEST_TICKET) == ESPANK_SUCCESS && value[0])
		return value;
	free(value);
	return NULL;
}

static uint32_t step_number(spank_t spank, spank_item_t item)
{
	uint32_t value = 0;

	return spank_get_item(spank, item, &value) == ESPANK_SUCCESS ? value : 0;
}

static ebb_user step_user(spank_t spank)
{
	ebb_user user = {step_number(spank, S_JOB_UID), step_number(spank, S_JOB_GID), NULL, 0};

	if (spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &user.groups, &user.group_count) != ESPANK_SUCCESS)
		user.group_count = 0;
	return user;
}

/* -- begin of a step */

/* What the administrator may want to know, though the job has its mounts. */
static void note(uint32_t job, char *text)
{
	make_printable(text);
	if (text[0])
		slurm_info("ebb: job %u: %s", (unsigned)job, text);
}

/* The job's lock is held and there is no pin: decide, mount and pin. An ebb_kind; text tells of EBB_REFUSE. */
static int make_pin(spank_t spank, const ebb_settings *settings, ebb_step *step, int lock, char *text, size_t size)
{
	ebb_answer answer = {NULL, 0, NULL};
	char path[PATH_MAX];
	ebb_plan plan;
	int kind = ebb_ask(step, &answer, text, size);

	if (kind == EBB_MOUNT) {
		ebb_pin_path(settings, step->job, ":plan", path, sizeof(path));
		if (ebb_plan_read(&plan, answer.data, answer.size) != 0) {
			snprintf(text, size, "the plugin's two parts do not fit each other; tell the administrator");
			kind = EBB_REFUSE;
		} else {
			if (ebb_file_write(path, answer.data, answer.size) != 0 ||
			    ebb_namespace_make(settings, step->job, &plan, lock, text, size) != 0)
				kind = EBB_REFUSE;
			else
				note(step->job, text);
			ebb_plan_free(&plan);
		}
	}
	if (answer.ticket)
		spank_setenv(spank, TICKET, answer.ticket, 1);
	free(answer.data);
	free(answer.ticket);
	return kind;
}

/* Why there are no mounts, into the log and for the job's tasks. */
static void refuse(const ebb_settings *settings, uint32_t job, char *text)
{
	char pin[PATH_MAX];

	make_printable(text);
	slurm_error("ebb: job %u: %s", (unsigned)job, text);
	ebb_pin_path(settings, job, "", pin, sizeof(pin));
	if (ebb_file_write(pin, text, strlen(text)) != 0)
		slurm_error("ebb: job %u: %s: %s", (unsigned)job, pin, strerror(errno));
}

static enum ebb_pin_state look(const char *pin)
{
	int fd = open(pin, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	enum ebb_pin_state state = ebb_pin_look(fd);

	if (fd >= 0)
		close(fd);
	return state;
}

/* A step that speaks of buffers, and no pin yet. */
static void first_step(spank_t spank, const ebb_settings *settings, const char *ticket, const char *pin)
{
	ebb_user user = step_user(spank);
	ebb_step step = {step_number(spank, S_JOB_ID), user.uid, user.gid, user.groups, user.group_count, ticket,
			 settings->config};
	char text[EBB_TEXT] = "", lock_path[PATH_MAX];
	int lock, kind = EBB_REFUSE;

	if (ebb_pins_prepare(settings, text, sizeof(text)) != 0) {
		slurm_error("ebb: job %u: %s", (unsigned)step.job, text); /* the tasks will miss their pin */
		return;
	}
	ebb_pins_sweep(settings);
	ebb_pin_path(settings, step.job, ":lock", lock_path, sizeof(lock_path));
	lock = ebb_lock(lock_path, EBB_MOUNT_SECONDS + 5);
	if (lock < 0) {
		snprintf(text, sizeof(text), "another step of the job has been mounting for too long; try again");
	} else if (look(pin) == EBB_PIN_NAMESPACE) {
		close(lock);
		return;
	} else {
		kind = make_pin(spank, settings, &step, lock, text, sizeof(text));
	}
	if (kind == EBB_REFUSE) {
		refuse(settings, step.job, text);
	} else if (kind == EBB_NOTHING) {
		/* An inherited ticket of another job, say. Its tasks expect nothing. */
		spank_unsetenv(spank, TICKET);
		unlink(lock_path);
	}
	if (lock >= 0)
		close(lock);
}

static void begin_step(spank_t spank, const ebb_settings *settings)
{
	uint32_t job = step_number(spank, S_JOB_ID);
	char *ticket = step_variable(spank, TICKET);
	char pin[PATH_MAX], plan[PATH_MAX];

	ebb_pin_path(settings, job, "", pin, sizeof(pin));
	if (!ticket && access(pin, F_OK) != 0)
		return; /* a job without a buffer */
	if (look(pin) == EBB_PIN_NAMESPACE) {
		ebb_pin_path(settings, job, ":plan", plan, sizeof(plan));
		utimensat(AT_FDCWD, plan, NULL, AT_SYMLINK_NOFOLLOW); /* used now: not stale */
		/* Tasks that cannot see the pin (job_container/tmpfs) go by the variable. It is no ticket. */
		if (!ticket)
			spank_setenv(spank, TICKET, "pinned", 0);
	} else if (ticket) {
		first_step(spank, settings, ticket, pin);
	}
	free(ticket);
}

static int io_wanted(spank_t spank)
{
	char value[8];

	return spank_getenv(spank, IO_VARIABLE, value, sizeof(value)) == ESPANK_SUCCESS && strcmp(value, "yes") == 0;
}

int slurm_spank_init(spank_t spank, int count, char **arguments)
{
	ebb_settings settings;
	char text[EBB_TEXT];

	/* In every context but prolog and epilog: srun, sbatch, salloc, slurmstepd, and slurmd for psslurm's sake. */
	if (spank_context() != S_CTX_JOB_SCRIPT)
		spank_option_register(spank, &io_option);
	if (spank_context() != S_CTX_SLURMD)
		return 0;
	settings = read_settings(count, arguments);
	/* Before any job: a job_container made earlier than the folder would not see it. */
	if (ebb_pins_prepare(&settings, text, sizeof(text)) == 0)
		ebb_pins_sweep(&settings);
	else
		slurm_error("ebb: %s", text);
	return 0;
}

int slurm_spank_init_post_opt(spank_t spank, int count, char **arguments)
{
	ebb_settings settings;

	if (spank_context() != S_CTX_REMOTE)
		return 0;
	settings = read_settings(count, arguments);
	begin_step(spank, &settings);
	if (io_asked >= 0) /* for later hooks, maybe in other processes, and for the steps of a batch script */
		spank_setenv(spank, IO_VARIABLE, io_asked ? "yes" : "no", 1);
	if (io_wanted(spank))
		ebb_io_begin(&settings, step_number(spank, S_JOB_ID), step_number(spank, S_JOB_STEPID));
	return 0;
}

/* -- tasks */

/* Why this task must not run. In the task's child only; the two hooks of it run in one process everywhere. */
static char refusal[EBB_TEXT];

int slurm_spank_task_init_privileged(spank_t spank, int count, char **arguments)
{
	ebb_settings settings = read_settings(count, arguments);
	ebb_user user = step_user(spank);
	char directory[PATH_MAX] = "", probe[2];
	spank_err_t found = spank_getenv(spank, TICKET, probe, sizeof(probe));
	int expected = found == ESPANK_SUCCESS || found == ESPANK_NOSPACE;

	if (spank_getenv(spank, "PWD", directory, sizeof(directory)) != ESPANK_SUCCESS)
		directory[0] = '\0';
	if (ebb_namespace_join(&settings, step_number(spank, S_JOB_ID), expected, &user, directory, refusal,
			       sizeof(refusal)) >= 0) {
		refusal[0] = '\0';
		return 0;
	}
	make_printable(refusal);
	return -1;
}

/*
 * The failure above is ignored for an optional plugin, and the program would run without its buffer. So the child,
 * which is the user's task but for its program, ends here: an earlier end makes slurmstepd complain of a broken pipe.
 */
int slurm_spank_task_init(spank_t spank, int count, char **arguments)
{
	(void)spank;
	(void)count;
	(void)arguments;
	if (!refusal[0])
		return 0;
	/* Not slurm_error: here it can be lost (22.05). Standard error is the task's own already, wherever it goes. */
	dprintf(STDERR_FILENO, "ebb: error: %s\n", refusal);
	_exit(1);
}

/* -- I/O instrumentation */

/* The IOI_* variables of the job, into the log that its user sees. */
static void log_variables(spank_t spank)
{
	char **environment = NULL, line[EBB_TEXT];

	if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment)
		return;
	for (; *environment; environment++) {
		if (strncmp(*environment, "IOI_", 4) != 0)
			continue;
		snprintf(line, sizeof(line), "%s", *environment);
		make_printable(line);
		slurm_spank_log("ebb: %s", line);
	}
}

/* Here the step's standard error is connected; in init_post_opt it is not. The log of one node is enough. */
int slurm_spank_user_init(spank_t spank, int count, char **arguments)
{
	(void)count;
	(void)arguments;
	if (spank_context() == S_CTX_REMOTE && io_wanted(spank) && step_number(spank, S_JOB_NODEID) == 0)
		log_variables(spank);
	return 0;
}

/* slurm_spank_exit would be the step's end, but nobody reads the step's standard error any more by then. */
int slurm_spank_task_exit(spank_t spank, int count, char **arguments)
{
	ebb_settings settings;
	uint32_t job, step;
	char text[4 * EBB_TEXT], *line, *rest = NULL;

	if (spank_context() != S_CTX_REMOTE || !io_wanted(spank))
		return 0;
	settings = read_settings(count, arguments);
	job = step_number(spank, S_JOB_ID);
	step = step_number(spank, S_JOB_STEPID);
	if (!ebb_io_task_ended(&settings, job, step, step_number(spank, S_JOB_LOCAL_TASK_COUNT)))
		return 0;
	if (ebb_io_summary(&settings, job, step, text, sizeof(text)) != 0)
		return 0;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		slurm_spank_log("ebb: %s", line);
	return 0;
}

/* -- end of a job */

/* A fresh process of slurmd's, root, on every node of the job, when the last step is gone. No init was called. */
int slurm_spank_job_epilog(spank_t spank, int count, char **arguments)
{
	ebb_settings settings = read_settings(count, arguments);

	ebb_pin_remove(&settings, step_number(spank, S_JOB_ID));
	return 0;
}
