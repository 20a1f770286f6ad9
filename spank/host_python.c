/*
 * Python inside a process of Slurm's: started by us, before cffi would do it, at the first callback, never in slurmd.
 * cffi's own start trusts the user's environment (PYTHONHOME ends the host, PYTHONPATH runs code as root), so this one
 * ignores it. Python is never finalized: other plugins of the process may use the same interpreter.
 */
#define _GNU_SOURCE
#include <Python.h>

#include <dlfcn.h>

#include "ebb_spank.h"

int ebb_cffi_start(void); /* in the generated part: cffi_start_python() is static there */
int ebb_python_plan(ebb_step *step, ebb_answer *answer); /* spank/callbacks.py */

/* Slurm loads us without RTLD_GLOBAL; Python's extension modules look for libpython's symbols among the global ones. */
static int make_global(char *text, size_t size)
{
	Dl_info python;

	/* A function's address through the linker, as dladdr wants it. */
	if (dladdr((void *)(uintptr_t)Py_IsInitialized, &python) == 0 || !python.dli_fname ||
	    !dlopen(python.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL)) {
		snprintf(text, size, "libpython cannot be found again; tell the administrator");
		return -1;
	}
	return 0;
}

static PyStatus initialize(void)
{
	PyPreConfig before;
	PyConfig config;
	PyStatus status;

	PyPreConfig_InitIsolatedConfig(&before);
	before.utf8_mode = 1; /* isolated means the C locale, and paths need not be ASCII */
	status = Py_PreInitialize(&before);
	if (PyStatus_Exception(status))
		return status;
	PyConfig_InitIsolatedConfig(&config);
	config.install_signal_handlers = 0;
	config.write_bytecode = 0;
	/* The interpreter that built us, absolute: its prefix, and its virtual environment's packages, follow from it. */
	status = PyConfig_SetBytesString(&config, &config.program_name, EBB_PYTHON);
	/* Python 3.11 looks for a virtual environment by these, isolated or not. */
	unsetenv("PYTHONEXECUTABLE");
	unsetenv("__PYVENV_LAUNCHER__");
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	return status;
}

/* Returns 0 when callbacks can be called; -1 with a message, and they never will. */
static int start(char *text, size_t size)
{
	static int started;

	if (started)
		return 0;
	if (make_global(text, size) != 0)
		return -1;
	if (!Py_IsInitialized()) {
		PyStatus status = initialize();

		if (PyStatus_Exception(status)) {
			snprintf(text, size, "Python (%s) does not start: %s; tell the administrator", EBB_PYTHON,
				 status.err_msg ? status.err_msg : "no reason given");
			return -1;
		}
		PyEval_SaveThread(); /* cffi takes the lock for each call */
	}
	/* Unchecked, a failed import would make every callback return 0, which is success. */
	if (ebb_cffi_start() != 0) {
		snprintf(text, size, "the plugin's Python part does not load in %s; slurmd's log says why", EBB_PYTHON);
		return -1;
	}
	started = 1;
	return 0;
}

/* See ebb_spank.h. */
int ebb_decide(ebb_step *step, ebb_answer *answer, char *text, size_t size)
{
	int kind = EBB_REFUSE;

	if (start(text, size) == 0) {
		kind = ebb_python_plan(step, answer);
		if (kind == EBB_REFUSE)
			snprintf(text, size, "%s", answer->data ? answer->data
				 : "the plugin's Python part failed; slurmd's log says how");
	}
	return kind;
}
