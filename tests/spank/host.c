/*
 * A process that treats spank_ebb.so as slurmd, slurmstepd and psslurm do: symbols of its own behind the plugin's
 * calls, dlopen with RTLD_LAZY and without RTLD_GLOBAL, hooks in the order given, tasks in forked children.
 *
 *   host PLUGIN NAME=VALUE... -- ACTION...
 *
 * NAME=VALUE: job, step, uid, gid, groups (a,b), context (remote, slurmd, local, allocator, script), tasks, node, arg (of
 * plugstack.conf, repeatable), env (A=B of the step, repeatable).
 * Actions, each printing a line that begins with its name:
 *   HOOK             call slurm_spank_HOOK            -> HOOK <result>
 *   fork:HOOK        the same in a process of its own, as psslurm does
 *   heap:HOOK        the same on an 8 MiB stack in heap memory, as contain_spank does
 *   option:VALUE     give --ioinstrumentation=VALUE   -> option <result>
 *   tasks:COMMAND    start all tasks with it, then wait; task_exit after each
 *   contained:COMMAND  the same, with the tasks in a mount namespace that job_container/tmpfs would have made
 *   start:COMMAND    one task, not waited for         -> start <pid>
 *   wait             wait for those
 *   python           -> python 1 if Python runs in this process
 *   threads          -> threads <number>
 *   signals          -> signals <disposition and mask of SIGPIPE>
 *   env:NAME         -> env <value in the step's environment>
 *   time:HOOK        -> time <microseconds>
 *   close            dlclose                          -> close <1 if it is still mapped>
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/spank.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define VARIABLES 64
#define VALUE 65536

typedef int (*hook_function)(spank_t, int, char **);

/* Shared by all processes of a step, as Slurm and psslurm carry it along. */
static struct {
	char name[128];
	char value[VALUE];
} *environment;

static void *plugin;
static char *plugstack[32];
static int plugstack_count;
static uint32_t job = 1, step, nodeid, tasks = 1;
static uid_t uid = 2001;
static gid_t gid = 2001;
static gid_t *groups; /* allocated, so that a sanitizer sees a read past the end */
static int group_count;
static enum spank_context context = S_CTX_REMOTE;
static struct spank_option *option;
static char *job_environment[VARIABLES + 1];

/* -- what Slurm exports to plugins */

static int find(const char *name)
{
	int i;

	for (i = 0; i < VARIABLES; i++)
		if (strcmp(environment[i].name, name) == 0)
			return i;
	return -1;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *value, int size)
{
	int i = find(name);

	(void)spank;
	if (context != S_CTX_REMOTE)
		return ESPANK_NOT_REMOTE;
	if (i < 0)
		return ESPANK_ENV_NOEXIST;
	if (strlen(environment[i].value) >= (size_t)size)
		return ESPANK_NOSPACE;
	strcpy(value, environment[i].value);
	return ESPANK_SUCCESS;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
	int i = find(name);

	(void)spank;
	if (i >= 0 && !overwrite)
		return ESPANK_ENV_EXISTS;
	if (i < 0)
		i = find("");
	snprintf(environment[i].name, sizeof(environment[i].name), "%s", name);
	snprintf(environment[i].value, VALUE, "%s", value);
	return ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t spank, const char *name)
{
	int i = find(name);

	(void)spank;
	if (i < 0)
		return ESPANK_ENV_NOEXIST;
	environment[i].name[0] = '\0';
	return ESPANK_SUCCESS;
}

static char **environment_array(void)
{
	int i, used = 0;

	for (i = 0; i < VARIABLES; i++) {
		if (!environment[i].name[0])
			continue;
		free(job_environment[used]);
		if (asprintf(&job_environment[used], "%s=%s", environment[i].name, environment[i].value) < 0)
			abort();
		used++;
	}
	free(job_environment[used]);
	job_environment[used] = NULL;
	return job_environment;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
	spank_err_t result = ESPANK_SUCCESS;
	va_list out;

	(void)spank;
	va_start(out, item);
	switch (item) {
	case S_JOB_UID:
		*va_arg(out, uid_t *) = uid;
		break;
	case S_JOB_GID:
		*va_arg(out, gid_t *) = gid;
		break;
	case S_JOB_ID:
		*va_arg(out, uint32_t *) = job;
		break;
	case S_JOB_STEPID:
		*va_arg(out, uint32_t *) = step;
		break;
	case S_JOB_NODEID:
		*va_arg(out, uint32_t *) = nodeid;
		break;
	case S_JOB_LOCAL_TASK_COUNT:
		*va_arg(out, uint32_t *) = tasks;
		break;
	case S_JOB_SUPPLEMENTARY_GIDS:
		*va_arg(out, gid_t **) = groups;
		*va_arg(out, int *) = group_count;
		break;
	case S_JOB_ENV:
		*va_arg(out, char ***) = environment_array();
		break;
	default:
		result = ESPANK_BAD_ARG;
	}
	va_end(out);
	return result;
}

spank_context_t spank_context(void)
{
	return context;
}

int spank_remote(spank_t spank)
{
	(void)spank;
	return context == S_CTX_REMOTE;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *given)
{
	(void)spank;
	option = given;
	return ESPANK_SUCCESS;
}

#define LOG(function, prefix)                          \
	void function(const char *format, ...)         \
	{                                              \
		va_list arguments;                     \
		va_start(arguments, format);           \
		fputs(prefix, stderr);                 \
		vfprintf(stderr, format, arguments);   \
		fputc('\n', stderr);                   \
		va_end(arguments);                     \
	}
LOG(slurm_error, "error: ")
LOG(slurm_info, "info: ")
LOG(slurm_spank_log, "")

/* -- actions */

static int call(const char *name)
{
	char symbol[128];
	hook_function hook;

	snprintf(symbol, sizeof(symbol), "slurm_spank_%s", name);
	hook = (hook_function)dlsym(plugin, symbol);
	return hook ? hook((spank_t)&context, plugstack_count, plugstack) : 0;
}

static ucontext_t main_context, heap_context;
static const char *heap_hook;
static int heap_result;

static void on_heap(void)
{
	heap_result = call(heap_hook);
}

static int call_on_heap(const char *name)
{
	void *stack = malloc(8 * 1024 * 1024);

	getcontext(&heap_context);
	heap_context.uc_stack.ss_sp = stack;
	heap_context.uc_stack.ss_size = 8 * 1024 * 1024;
	heap_context.uc_link = &main_context;
	heap_hook = name;
	makecontext(&heap_context, on_heap, 0);
	swapcontext(&main_context, &heap_context);
	free(stack);
	return heap_result;
}

static int call_in_process(const char *name)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		int result = call(name);
		fflush(stdout);
		_exit(result == 0 ? 0 : 1);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* As job_container/tmpfs: a namespace of its own, cut off from the host's, with a private /mnt. */
static void contain(void)
{
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("private", "/mnt", "tmpfs", 0, NULL) != 0)
		perror("contain");
	close(open("/mnt/private-to-the-container", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
}

static pid_t start_task(const char *command, int container)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child != 0)
		return child;
	if (container >= 0 && setns(container, CLONE_NEWNS) != 0)
		perror("setns");
	call("task_init_privileged"); /* optional: its result does not matter */
	if (setgroups(group_count, groups) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
		_exit(99);
	call("task_init");
	execle("/bin/sh", "sh", "-c", command, (char *)NULL, environment_array());
	_exit(98);
}

static void run_tasks(const char *command, int contained)
{
	int status, space = -1, ready[2], done[2];
	uint32_t i;

	if (contained) { /* made by somebody else before the tasks, as Slurm's plugin does in slurmd */
		char path[64], byte = 0;
		pid_t maker;

		if (pipe(ready) != 0 || pipe(done) != 0)
			abort();
		maker = fork();
		if (maker == 0) {
			contain();
			if (write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) != 1)
				_exit(1);
			_exit(0);
		}
		if (read(ready[0], &byte, 1) != 1)
			abort();
		snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)maker);
		space = open(path, O_RDONLY | O_CLOEXEC);
		if (write(done[1], &byte, 1) != 1)
			abort();
		waitpid(maker, &status, 0);
	}
	for (i = 0; i < tasks; i++)
		start_task(command, space);
	for (i = 0; i < tasks; i++) {
		pid_t ended = wait(&status);
		(void)ended;
		printf("task %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
		call("task_exit");
	}
}

static int count_lines(const char *path, const char *wanted)
{
	char line[4096];
	int found = 0;
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, wanted, strlen(wanted)) == 0)
			found = atoi(line + strlen(wanted));
		else if (wanted[0] == '/' && strstr(line, wanted))
			found++;
	if (file)
		fclose(file);
	return found;
}

static int python_runs(void)
{
	void *library = dlopen(LIBPYTHON, RTLD_LAZY | RTLD_NOLOAD);
	int (*initialized)(void) = library ? (int (*)(void))dlsym(library, "Py_IsInitialized") : NULL;

	return initialized ? initialized() : 0;
}

static void act(char *action)
{
	char *argument = strchr(action, ':');
	struct timespec begin, end;
	int status;

	if (argument)
		*argument++ = '\0';
	if (!argument && strcmp(action, "python") == 0) {
		printf("python %d\n", python_runs());
	} else if (!argument && strcmp(action, "threads") == 0) {
		printf("threads %d\n", count_lines("/proc/self/status", "Threads:"));
	} else if (!argument && strcmp(action, "signals") == 0) {
		struct sigaction how;
		sigset_t mask;
		sigaction(SIGPIPE, NULL, &how);
		sigprocmask(SIG_SETMASK, NULL, &mask);
		printf("signals %d %d\n", how.sa_handler == SIG_DFL, sigismember(&mask, SIGPIPE));
	} else if (!argument && strcmp(action, "wait") == 0) {
		while (wait(&status) > 0)
			printf("task %d\n", WEXITSTATUS(status));
	} else if (!argument && strcmp(action, "close") == 0) {
		dlclose(plugin);
		printf("close %d\n", count_lines("/proc/self/maps", "/spank_ebb.so") > 0);
	} else if (!argument) {
		printf("%s %d\n", action, call(action));
	} else if (strcmp(action, "fork") == 0) {
		printf("%s %d\n", argument, call_in_process(argument));
	} else if (strcmp(action, "heap") == 0) {
		printf("%s %d\n", argument, call_on_heap(argument));
	} else if (strcmp(action, "option") == 0) {
		printf("option %d\n", option->cb(option->val, argument, context == S_CTX_REMOTE));
	} else if (strcmp(action, "tasks") == 0 || strcmp(action, "contained") == 0) {
		run_tasks(argument, action[0] == 'c');
	} else if (strcmp(action, "start") == 0) {
		printf("start %d\n", (int)start_task(argument, -1));
	} else if (strcmp(action, "env") == 0) {
		int i = find(argument);
		printf("env %s\n", i < 0 ? "(unset)" : environment[i].value);
	} else if (strcmp(action, "time") == 0) {
		clock_gettime(CLOCK_MONOTONIC, &begin);
		call(argument);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("time %ld\n", (end.tv_sec - begin.tv_sec) * 1000000L + (end.tv_nsec - begin.tv_nsec) / 1000);
	} else {
		fprintf(stderr, "host: no action %s\n", action);
		exit(2);
	}
}

static void set(char *name)
{
	static const char *const contexts[] = {"", "local", "remote", "allocator", "slurmd", "script", NULL};
	char *value = strchr(name, '='), *part, *rest = NULL;
	int i;

	*value++ = '\0';
	if (strcmp(name, "job") == 0)
		job = (uint32_t)atoi(value);
	else if (strcmp(name, "step") == 0)
		step = (uint32_t)strtoul(value, NULL, 0);
	else if (strcmp(name, "uid") == 0)
		uid = (uid_t)atoi(value);
	else if (strcmp(name, "gid") == 0)
		gid = (gid_t)atoi(value);
	else if (strcmp(name, "tasks") == 0)
		tasks = (uint32_t)atoi(value);
	else if (strcmp(name, "node") == 0)
		setenv("SLURMD_NODENAME", value, 1);
	else if (strcmp(name, "arg") == 0)
		plugstack[plugstack_count++] = value;
	else if (strcmp(name, "groups") == 0)
		for (part = strtok_r(value, ",", &rest); part; part = strtok_r(NULL, ",", &rest)) {
			groups = realloc(groups, sizeof(gid_t) * (size_t)(group_count + 1));
			groups[group_count++] = (gid_t)atoi(part);
		}
	else if (strcmp(name, "context") == 0)
		for (i = 1; contexts[i]; i++)
			context = strcmp(contexts[i], value) == 0 ? (enum spank_context)i : context;
	else if (strcmp(name, "env") == 0) {
		char *text = strchr(value, '=');
		*text++ = '\0';
		spank_setenv(NULL, value, text, 1);
	}
}

int main(int count, char **words)
{
	const char *type;
	const unsigned int *version;
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	environment = mmap(NULL, sizeof(*environment) * VARIABLES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			   -1, 0);
	for (i = 2; i < count && strcmp(words[i], "--") != 0; i++)
		set(words[i]);
	plugin = dlopen(words[1], RTLD_LAZY);
	if (!plugin) {
		fprintf(stderr, "host: %s\n", dlerror());
		return 2;
	}
	type = dlsym(plugin, "plugin_type");
	version = dlsym(plugin, "plugin_version");
	if (!type || strcmp(type, "spank") != 0 || !version || *version >> 8 != SLURM_VERSION_NUMBER >> 8) {
		fprintf(stderr, "host: no SPANK plugin for this Slurm\n");
		return 2;
	}
	for (i++; i < count; i++)
		act(words[i]);
	return 0;
}
