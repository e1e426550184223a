/* The part of libteflon.so that is made for one version of Python: C code in front of what cffi generates.

   It starts Python where the host has none, lets bootstrap.py find what the plugin imports, starts cffi's embedding, and
   imports delegate.plugin, whose functions are the callbacks. Nothing here may leave an exception or end the process. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tflite_c_api.h"

typedef void (*Report)(const char *message);

/* extern "Python" of build.py: defined in plugin.py. */
static TfLiteDelegate *teflon_create(char **, char **, size_t, Report);
static void teflon_destroy(TfLiteDelegate *);
static TfLiteStatus teflon_delegate_prepare(TfLiteContext *, TfLiteDelegate *);
static void *teflon_init(TfLiteContext *, TfLiteDelegateParams *);
static void teflon_free(void *);
static TfLiteStatus teflon_prepare(TfLiteContext *, TfLiteNode *);
static TfLiteStatus teflon_invoke(TfLiteContext *, TfLiteNode *);

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static int started; /* under start_lock */

static void fail(Report report, const char *message) {
  if (report)
    report(message);
  else
    fprintf(stderr, "teflon: %s\n", message);
}

/* Starts an interpreter that leaves the host's signals, locale and arguments alone. NULL, or what went wrong. */
static const char *start_python(void) {
  PyPreConfig before;
  PyConfig config;
  PyPreConfig_InitPythonConfig(&before);
  before.parse_argv = 0;
  before.configure_locale = 0;
  before.coerce_c_locale = 0;
  before.utf8_mode = 1;
  PyStatus status = Py_PreInitialize(&before);
  if (PyStatus_Exception(status)) return status.err_msg ? status.err_msg : "Python cannot be initialized";
  PyConfig_InitPythonConfig(&config);
  config.parse_argv = 0;
  config.install_signal_handlers = 0;
  status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) return status.err_msg ? status.err_msg : "Python cannot be initialized";
  PyEval_SaveThread();
  return NULL;
}

/* Calls a function of bootstrap.py with the folder. 1 if it returned None; else its text, or the exception, is in
   `message`. Needs the GIL. */
static int bootstrap(PyObject *functions, const char *name, const char *folder, char *message, size_t size) {
  PyObject *function = PyDict_GetItemString(functions, name); /* borrowed */
  PyObject *result = function ? PyObject_CallFunction(function, "s", folder) : NULL;
  int done = result == Py_None;
  if (!done) {
    const char *text = result ? PyUnicode_AsUTF8(result) : NULL;
    snprintf(message, size, "%s", text ? text : "Python's part of the delegate cannot be started");
    PyErr_Clear();
  }
  Py_XDECREF(result);
  return done;
}

/* Finds the packages, starts cffi, imports the plugin. 1 if all went well; `message` otherwise. Needs the GIL. */
static int import_plugin(const char *folder, char *message, size_t size) {
  PyObject *functions = PyDict_New(), *module = NULL;
  int done = 0;
  snprintf(message, size, "Python's part of the delegate cannot be started");
  if (functions && PyDict_SetItemString(functions, "__builtins__", PyEval_GetBuiltins()) == 0)
    module = PyRun_String(TEFLON_BOOTSTRAP, Py_file_input, functions, functions);
  if (module && bootstrap(functions, "find_packages", folder, message, size)) {
    snprintf(message, size, "cffi cannot start its embedding; see stderr");
    done = cffi_start_python() == 0 && bootstrap(functions, "import_plugin", folder, message, size);
  }
  PyErr_Clear();
  Py_XDECREF(module);
  Py_XDECREF(functions);
  return done;
}

/* Once in a process, tried again after a failure. The lock is never waited for with the GIL held. */
static int start(const char *folder, char *message, size_t size) {
  PyThreadState *thread = Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : NULL;
  pthread_mutex_lock(&start_lock);
  const char *problem = !started && !Py_IsInitialized() ? start_python() : NULL;
  if (problem) {
    snprintf(message, size, "Python cannot be started in this program: %s", problem);
  } else if (!started) {
    PyGILState_STATE state = PyGILState_Ensure();
    started = import_plugin(folder, message, size);
    PyGILState_Release(state);
  }
  int done = started;
  pthread_mutex_unlock(&start_lock);
  if (thread) PyEval_RestoreThread(thread);
  return done;
}

CFFI_DLLEXPORT TfLiteDelegate *teflon_create_delegate(const char *folder, char **keys, char **values, size_t count,
                                                      Report report) {
  char message[4096];
  if (start(folder, message, sizeof message)) return teflon_create(keys, values, count, report);
  fail(report, message);
  return NULL;
}

/* A host may let go of its delegates after it ended its Python; then there is nothing left to free. */
CFFI_DLLEXPORT void teflon_destroy_delegate(TfLiteDelegate *delegate) {
  if (Py_IsInitialized()) teflon_destroy(delegate);
}

static void *node_init(TfLiteContext *context, const char *buffer, size_t length) {
  return teflon_init(context, (TfLiteDelegateParams *)buffer); /* so it is for delegates, and length is 0 */
}

static void node_free(TfLiteContext *context, void *kernel) {
  if (kernel && Py_IsInitialized()) teflon_free(kernel);
}

/* Ctrl-C during a callback ends it with an error. Raised again inside of it, it would be lost; so it is done here. */
static volatile int interrupted;

static TfLiteStatus after_callback(TfLiteStatus status) {
  if (interrupted) {
    interrupted = 0;
    PyErr_SetInterrupt();
  }
  return status;
}

/* Used by plugin.py. */
static void teflon_interrupt_host(void) { interrupted = 1; }

static TfLiteStatus node_invoke(TfLiteContext *context, TfLiteNode *node) {
  return after_callback(teflon_invoke(context, node));
}

static TfLiteStatus delegate_prepare(TfLiteContext *context, TfLiteDelegate *delegate) {
  return after_callback(teflon_delegate_prepare(context, delegate));
}

/* Used by plugin.py: has the interpreter replace the nodes by kernels of this delegate. */
static TfLiteStatus teflon_claim(TfLiteContext *context, const TfLiteIntArray *nodes, TfLiteDelegate *delegate) {
  TfLiteRegistration registration = {.init = node_init,
                                     .free = node_free,
                                     .prepare = teflon_prepare,
                                     .invoke = node_invoke,
                                     .custom_name = "Teflon Delegate",
                                     .version = 1};
  return context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, nodes, delegate);
}

/* Used by plugin.py. */
static void teflon_set_prepare(TfLiteDelegate *delegate) { delegate->Prepare = delegate_prepare; }

/* Used by plugin.py: an error of the interpreter's, whose function takes a format. */
static void teflon_report(TfLiteContext *context, const char *message) { context->ReportError(context, "%s", message); }
